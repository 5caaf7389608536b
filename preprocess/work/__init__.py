"""How many videos are worked on: which ones, by which processes, within which limits, stored where."""
