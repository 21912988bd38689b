"""Checkpoints and finished networks in a store."""
