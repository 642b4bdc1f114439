"""What finished networks look at: which part of an input an answer hangs on, and what a class looks like to them."""
