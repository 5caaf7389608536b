"""preprocess.faces.mouth: where a mouth is cut, and frames without a face."""

import numpy as np
import pytest

from preprocess.faces.mouth import MEAN_FACE, SIDE, STABLE, Mouths
from utils.clip.face_regions import LIPS
from utils.clip.files import LANDMARKS_NAME, NUM_LANDMARKS
from utils.errors import ClipError

SIZE = 224
LIPS_IN_MEAN_FACE = 129.4 + 158.2j


def write_landmarks(folder, turn, shift, num_frames=3):
    """Landmarks whose stable points and lips are the mean face's after z -> turn z + shift, in pixels."""
    points = np.full((num_frames, NUM_LANDMARKS), 0.5 + 0.5j)
    points[:, STABLE] = (turn * MEAN_FACE + shift) / SIZE
    around = np.exp(2j * np.pi * np.arange(len(LIPS)) / len(LIPS))  # their mean is 0
    points[:, LIPS] = (turn * (LIPS_IN_MEAN_FACE + 10 * around) + shift) / SIZE
    landmarks = np.stack([points.real, points.imag], axis=-1).astype(np.float32)
    np.save(folder / LANDMARKS_NAME, landmarks)
    return landmarks


@pytest.mark.parametrize("turn", [1.0, 0.7 * np.exp(0.3j), 1.1 * np.exp(-0.2j)])
def test_a_mouth_is_cut_from_the_upright_face(tmp_path, turn):
    """A plane that rises over the mean face to the right and down rises so in the mouth."""
    shift = SIZE / 2 * (1 + 1j) - turn * LIPS_IN_MEAN_FACE
    write_landmarks(tmp_path, turn, shift)
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    upright = (x + 1j * y - shift) / turn
    plane = np.clip(0.4 * upright.real + 0.7 * upright.imag, 0, 255)
    images = np.repeat(plane.round().astype(np.uint8)[None, ..., None], 3, axis=-1)
    mouth = Mouths(tmp_path).cut(np.array([1]), images)[0]
    assert mouth.shape == (SIDE, SIDE)
    left, top = 129 - SIDE // 2, 158 - SIDE // 2
    expected = 0.4 * (left + np.arange(SIDE)) + 0.7 * (top + np.arange(SIDE)[:, None])
    inside = np.s_[12:-12, 12:-12]  # of the picture, too
    np.testing.assert_allclose(mouth[inside].astype(float), expected[inside], atol=1.5)


@pytest.mark.parametrize("missing", [np.nan, 0.0])
def test_frames_without_a_face_lie_between_their_neighbours(tmp_path, missing):
    landmarks = np.repeat(write_landmarks(tmp_path, 0.8, 5 + 5j, num_frames=1), 5, axis=0)
    landmarks += np.linspace(0, 0.08, 5, dtype=np.float32)[:, None, None]
    np.save(tmp_path / LANDMARKS_NAME, landmarks)
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    expected = Mouths(tmp_path).cut(np.arange(5), images)
    landmarks[2] = missing
    np.save(tmp_path / LANDMARKS_NAME, landmarks)
    mouths = Mouths(tmp_path)
    assert len(mouths) == 5
    assert np.abs(mouths.cut(np.arange(5), images).astype(int) - expected).max() <= 1
    landmarks[:] = missing
    np.save(tmp_path / LANDMARKS_NAME, landmarks)
    with pytest.raises(ClipError, match="no face in any frame"):
        Mouths(tmp_path)


def test_a_head_that_moves_is_followed_by_the_mean_of_twelve_frames(tmp_path):
    """From each frame on; the last eleven take what the twelfth from the end takes."""
    landmarks = np.repeat(write_landmarks(tmp_path, 0.8, 5 + 5j, num_frames=1), 20, axis=0)
    landmarks[:, STABLE, 0] += np.arange(20, dtype=np.float32)[:, None] / SIZE
    np.save(tmp_path / LANDMARKS_NAME, landmarks)
    stable = Mouths(tmp_path)._stable[:, :, 0] - landmarks[0, STABLE, 0]
    expected = np.minimum(np.arange(20), 8) + 5.5
    np.testing.assert_allclose(stable * SIZE, np.repeat(expected[:, None], 5, axis=1), atol=1e-3)
