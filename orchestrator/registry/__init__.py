"""The model registry: an averaged student becomes a version that loads without this project."""
