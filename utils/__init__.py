"""What every floor above uses."""

import os

# Linux is to give torch memory in pages of 2 MB: on a CPU, a training step takes its activations from the
# system and returns them. Set here: torch reads it when it makes its first tensor, and some imports make one.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
