"""What networks look at, as a table, pictures and JSON."""
