"""Perturbed variants of raw videos: what a detector should survive, applied to the full frame before the
crop.
"""
