"""Joint alignment by five points, against the specification's numbers and OpenCV."""

import cv2
import numpy as np
import pytest
import torch

from models.blocks.alignment import five_points, sample, similarity_to, template, warp
from tests.environment import needs_opencv_4

POINTS = torch.tensor([(310, 220), (400, 215), (352, 275), (318, 330), (392, 326)]).double()


def test_the_template_and_the_fit_are_the_specifications():
    torch.testing.assert_close(
        template(224)[0], torch.tensor([75.10117, 75.05680]).double(), atol=1e-5, rtol=0
    )
    expected = torch.tensor([[0.76482, -0.00271, -158.23241], [0.00271, 0.76482, -95.25015]]).double()
    found = similarity_to(template(224), POINTS)
    torch.testing.assert_close(found, expected, atol=5e-6, rtol=0)
    both = torch.stack([POINTS, POINTS + torch.tensor([6, -4])]).mean(0)
    joint = similarity_to(template(224), both)
    torch.testing.assert_close(joint[:, :2], found[:, :2])
    torch.testing.assert_close(joint[:, 2], torch.tensor([-160.53229, -93.72863]).double(), atol=5e-6, rtol=0)


def test_a_similarity_is_recovered():
    turn = torch.deg2rad(torch.tensor(10.0, dtype=torch.float64))
    rows = 1.7 * torch.stack([torch.stack([turn.cos(), -turn.sin()]), torch.stack([turn.sin(), turn.cos()])])
    points = template(224) @ rows.T + torch.tensor([300, 120])
    found = similarity_to(template(224), points)
    torch.testing.assert_close(found[:, :2] @ points.mT + found[:, 2:], template(224).mT, atol=1e-9, rtol=0)
    expected = torch.tensor([[0.57930, 0.10215, -186.04712], [-0.10215, 0.57930, -38.87205]]).double()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_batch_is_fitted_row_by_row_and_one_place_for_all_points_is_no_fit():
    rows = torch.stack([POINTS, 2 * POINTS, torch.zeros_like(POINTS)])
    found = similarity_to(template(112), rows)
    torch.testing.assert_close(found[1], similarity_to(template(112), 2 * POINTS))
    assert found[:2].isfinite().all()
    assert not found[2].isfinite().all()


def test_points_of_face_mesh_have_the_templates_order():
    landmarks = torch.zeros(2, 478, 2)
    landmarks[:, [33, 133], 0], landmarks[:, [362, 263], 0] = torch.tensor([2.0, 4]), torch.tensor([6.0, 8])
    landmarks[:, 1, 0], landmarks[:, 61, 0], landmarks[:, 291, 0] = 5.0, 3.5, 6.5
    assert five_points(landmarks)[0, :, 0].tolist() == [3, 7, 5, 3.5, 6.5]


@needs_opencv_4
@pytest.mark.parametrize("size", [112, 224])
def test_frames_are_warped_as_opencv_does(size):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 3, 97, 131, 3), dtype=np.uint8)  # clips, frames
    matrices = []
    for scale, turn in ((0.7, 0.4), (1.9, -0.2)):
        cosine, sine = scale * np.cos(turn), scale * np.sin(turn)
        matrices.append([[cosine, -sine, 21.3], [sine, cosine, 4.7]])
    video = torch.from_numpy(frames).permute(0, 4, 1, 2, 3)
    found, on_cpu = (
        way(video, torch.tensor(matrices), size).permute(0, 2, 3, 4, 1).numpy() for way in (sample, warp)
    )
    for clip, matrix, ours, cpu in zip(frames, matrices, found, on_cpu, strict=True):
        theirs = np.stack([cv2.warpAffine(frame, np.array(matrix), (size, size)) for frame in clip])
        np.testing.assert_array_equal(cpu, theirs)
        differences = np.abs(ours - theirs)
        assert differences.max() <= 1
        assert (differences > 0).mean() < 0.005
