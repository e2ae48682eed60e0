"""Known data sets, and what is left of the readers of a user's own files."""
