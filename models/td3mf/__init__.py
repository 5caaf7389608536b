"""2D3MF: features of frozen encoders, fused in the middle."""
