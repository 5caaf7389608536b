"""From results to pages: plots, reports, comparisons and matrices."""
