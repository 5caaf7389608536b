"""From logits to results: scores, metrics, intervals, decisions and significance tests."""
