"""Which clip is trained on, validated on, tested on: drawn splits, split files, protocols."""
