"""Hostile input on purpose: see python -m tests.fuzz --help."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before NumPy comes: a process that forks must have one thread
