"""The generated demo set: raw videos of talking faces in a real data set's layout, and their forgers.

speech.py, identities.py and animation.py make genuine clips, forgeries.py and speech.revoice fakes; plan.py
and layouts.py say which, dataset.py writes them (python -m preprocess.demo --output DIR).
"""
