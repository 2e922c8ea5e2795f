"""Many recordings to one table of results."""
