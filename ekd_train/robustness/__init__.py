"""Corrupted images, foreign images, selective prediction."""
