"""Train, validation and test parts: drawn splits, split files, published protocols."""
