"""Clips become windows, windows become batches."""
