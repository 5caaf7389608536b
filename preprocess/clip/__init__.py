"""How one video becomes a prepared clip: frame schedule, crop, landmarks, sound, clip.json."""
