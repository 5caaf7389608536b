"""What the encoder must keep: the same frames give the same bytes, whatever memory held before."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
ENCODE = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from tests.moving_face import moving_face
from utils.media.writer import VideoWriter
rng = np.random.default_rng(0)
with VideoWriter(Path(sys.argv[1]), fps=Fraction(25), width=320, height=288, crf=28, preset=sys.argv[2],
                 keyframe_interval=250) as writer:
    for frame in moving_face(12, size=(320, 288), path=lambda index: (160 + index, 140)):
        grain = rng.integers(-12, 13, frame.shape)
        writer.write((frame + grain).clip(0, 255).astype(np.uint8))
"""


@pytest.mark.parametrize("preset", ["superfast", "veryfast", "medium"])
def test_the_same_frames_give_the_same_bytes_whatever_lay_in_memory(tmp_path, preset):
    """glibc's MALLOC_PERTURB_ fills fresh memory: an encoder that reads it unwritten gives itself away."""
    digests = set()
    for perturb in ("1", "77", "254"):
        path = tmp_path / f"{perturb}.mp4"
        subprocess.run(
            [sys.executable, "-c", ENCODE, str(path), preset],
            check=True,
            cwd=ROOT,
            env=os.environ | {"MALLOC_PERTURB_": perturb, "PYTHONPATH": str(ROOT)},
        )
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
