"""Faces: find them in the whole frame, follow them over time, read their landmarks from the crop."""
