"""One training run: its steps, epochs and checkpoints."""
