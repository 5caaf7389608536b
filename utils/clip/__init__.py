"""The prepared clip, loose in its folder or inside a pack: names, frames, sound, face regions."""
