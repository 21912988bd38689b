"""The control plane: what happens, in what order, and what is kept."""
