"""Raw videos to prepared clip folders, and clip folders to packs. Each file here is a command."""
