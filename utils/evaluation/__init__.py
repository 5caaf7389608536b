"""Logits become numbers that can be trusted: scores, metrics, intervals, decisions, tests."""
