"""Finished networks as files for others, checked before they count."""
