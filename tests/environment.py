"""What some tests need of the environment: one of the two sets of requirements has it, the other has not."""

import pytest

from models.blocks.alignment import ROUNDS_PLACES
from preprocess.faces.backends import has_solutions

needs_solutions = pytest.mark.skipif(
    not has_solutions(), reason="needs mediapipe.solutions, which requirements-current.txt does not have"
)
needs_opencv_4 = pytest.mark.skipif(
    not ROUNDS_PLACES,
    reason="compares with warpAffine of OpenCV 4; requirements-current.txt has 5, whose is not used",
)
