"""Bytes of strangers become pictures and samples: containers, codecs, frames, sound, and their limits."""
