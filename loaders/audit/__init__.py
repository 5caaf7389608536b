"""Leaks between splits, and shortcuts: what makes results look too good."""
