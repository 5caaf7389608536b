"""Numbers become pages: plots, reports, comparisons, matrices."""
