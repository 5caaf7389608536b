"""Raw videos to verdicts: detector.py, what it says (verdict.py) and leans on (probes.py), test.py's mode."""
