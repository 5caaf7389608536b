"""Encoders of other people's making, written anew so that their published weights load by name."""
