"""Many videos: which there are, who prepares them, under which limits, and where results are stored."""
