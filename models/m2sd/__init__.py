"""M2SD: only its rule for cutting clips, for comparison with its published numbers."""
