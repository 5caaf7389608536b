"""The generated demo set: raw talking-face videos in FakeAVCeleb's download layout, and the forgers behind
its fakes.

python -m preprocess.demo --output DIR      speech.py + identities.py + animation.py -> genuine clips,
                                            forgeries.py + speech.revoice -> fakes, dataset.py -> the plan
"""
