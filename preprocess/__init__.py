"""Raw videos to prepared clip folders. Commands: prepare, crop_faces, extract_landmarks, extract_audio,
ffpp_audio, vidtimit, verify, demo.
"""
