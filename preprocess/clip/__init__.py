"""One video becomes prepared clips: frame schedule, crop, sound, landmarks."""
