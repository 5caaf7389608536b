"""Leaks and shortcuts: what makes results too good."""
