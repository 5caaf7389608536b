"""Checkpoints: written, read, exported, and read where others made them."""
