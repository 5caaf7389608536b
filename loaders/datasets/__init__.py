"""One data set a file: its metadata becomes a list of clips."""
