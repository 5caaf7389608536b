"""What some tests need of the environment: one of the two sets of requirements has it, the other has not."""

import pytest

from preprocess.faces.backends import has_solutions

needs_solutions = pytest.mark.skipif(
    not has_solutions(), reason="needs mediapipe.solutions, which requirements-current.txt does not have"
)
