"""The order of work of a run, and what is kept of it."""
