"""Encoders of others, rebuilt: frozen, they turn pictures or sound into features."""
