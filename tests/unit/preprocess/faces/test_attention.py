"""Face Mesh's network in two parts: the operations between them, and what is read from its file."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from preprocess.faces.attention import AttentionNetwork, _sample
from preprocess.faces.attention_file import cut
from preprocess.faces.model_files import FACE_MESH, read_model
from tests.moving_face import moving_face

LIPS, RIGHT_EYE, LEFT_EYE = (61, 291), (33, 133), (362, 263)  # corners


@pytest.fixture(scope="module")
def network():
    return AttentionNetwork(read_model(FACE_MESH))


def face():
    """A face as the network wants it: upright, in the middle, and half as much again around it."""
    (frame,) = moving_face(1, size=(192, 192), face_height=120, path=lambda i: (96, 96))
    return frame


def test_features_are_sampled_between_pixels_and_are_zero_outside():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(7, 9, 5)).astype(np.float32)
    places = generator.uniform(-3, 11, size=(2, 2, 200))
    places[0, :, 0], places[0, :, 1], places[1, :, 0] = (0, 0), (8, 6), (8, 2.5)  # the outermost centres
    sampled = _sample(features, places)
    x, y = places[:, 0], places[:, 1]
    for channel in range(5):
        expected = map_coordinates(features[..., channel].astype(np.float64), [y, x], order=1)
        inside = (x >= 0) & (x <= 8) & (y >= 0) & (y <= 6)
        np.testing.assert_allclose(sampled[..., channel], np.where(inside, expected, 0), atol=1e-5)


def test_squares_are_upright_with_lips_and_eyes_and_half_as_large_again(network):
    """Any turn, shift and size of a face turns, shifts and sizes them."""
    mesh, _ = network(face())
    operations = network._operations
    assert {tuple(corners) for corners in operations.corners.tolist()} == {LIPS, RIGHT_EYE, LEFT_EYE}
    for degrees, scale in ((0, 1.0), (30, 0.5), (-170, 2.0)):
        matrix = cv2.getRotationMatrix2D((96, 96), degrees, scale)
        turned = (mesh[:468] @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
        for square, corners, landmarks in zip(
            network._squares(turned), operations.corners, operations.landmarks, strict=True
        ):
            back = np.linalg.inv(square[:, :2])
            found = (turned[landmarks] - square[:, 2]) @ back.T  # in pixels of the square
            size = operations.square
            np.testing.assert_allclose(found.min(axis=0), size / 2 - size / 3, atol=1e-3)
            np.testing.assert_allclose(found.max(axis=0), size / 2 + size / 3, atol=1e-3)
            right, left = (turned[corners] - square[:, 2]) @ back.T
            assert left[1] == pytest.approx(right[1], abs=1e-3)
            assert left[0] > right[0]


def test_lips_eyes_and_irises_are_where_the_whole_face_has_them(network):
    """Each landmark of the second part is near the first part's: no region, and no eye, is another's."""
    image = face()
    found, logit = network(image)
    assert logit > 0
    points, *_ = network._whole(image, 1 / 255)
    coarse = points[0, :, :2] / network._operations.scale
    width = np.linalg.norm(coarse[454] - coarse[234])
    away = np.linalg.norm(found[:468] - coarse, axis=1) / width
    refined = np.unique(network._operations.landmarks)
    assert 0 < away[refined].mean() < 0.02
    assert away[refined].max() < 0.08
    assert not np.delete(away, refined).any()
    for (centre, *edge), corners in (
        ((468, 469, 470, 471, 472), RIGHT_EYE),
        ((473, 474, 475, 476, 477), LEFT_EYE),
    ):
        outer, inner = found[list(corners)]
        np.testing.assert_allclose(found[centre], (outer + inner) / 2, atol=0.05 * width)
        np.testing.assert_allclose(found[centre], found[edge].mean(axis=0), atol=0.01 * width)


def test_an_image_without_a_face_has_no_logit_for_one(network):
    found, logit = network(np.zeros((192, 192, 3), np.uint8))
    assert logit < 0
    assert found.shape == (478, 2)


def test_each_part_holds_its_own_weights_alone():
    content = read_model(FACE_MESH)
    first, second, operations = cut(content)
    assert len(first) + len(second) < 1.1 * len(content)
    assert min(len(first), len(second)) > 0.1 * len(content)
    refined = operations.refined
    assert np.bincount(refined.regions).tolist() == [80, 71 + 5, 71 + 5]  # lips, eyes with their irises
    np.testing.assert_array_equal(refined.landmarks[refined.landmarks >= 468], np.arange(468, 478))
    assert len(np.unique(refined.landmarks)) == len(refined.landmarks)
