"""What the fork server of tests/commands.py imports before its first fork.

Then everything that it imported is exempt from garbage collection: a collection in a fork would look at all
of these objects, a million, and so copy the pages that they lie on. A third of a short command's time.
"""

import gc
import importlib

IMPORTED = ["av", "cv2", "matplotlib.figure", "pandas", "scipy.stats", "sklearn.metrics", "torchaudio"]
IMPORTED += ["torch._dynamo", "torch.utils.tensorboard", "torchvision"]  # optimisers, logs, networks
IMPORTED += ["losses", "models.judging.modes", "preprocess.work.batch", "utils.report.page"]

for name in IMPORTED:
    importlib.import_module(name)
gc.collect()
gc.freeze()
