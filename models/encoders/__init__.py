"""Front ends and encoders: raw signals of a ClipBatch to feature sequences."""
