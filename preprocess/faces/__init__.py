"""Faces: found on the whole frame, followed over time, their landmarks read from the crop."""
