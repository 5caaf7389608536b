"""test.py --serve: a local page that judges videos which people drop on it."""
