"""From raw videos to verdicts: detector, verdict, evidence, annotated video, page, and modes of test.py."""
