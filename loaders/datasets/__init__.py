"""One file per data set: metadata in, list of clips out."""
