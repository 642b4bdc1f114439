"""Which channels, heads and features of a network go together, so that they can be taken out as one."""
