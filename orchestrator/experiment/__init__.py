"""The typed description of a run: its schema, where it runs and is kept, how YAML becomes it."""
