"""How a function gets onto machines, and who is watching. Knows nothing of pruning."""
