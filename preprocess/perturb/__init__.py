"""Perturbations of raw videos that a detector should survive, applied to full frames before the crop."""
