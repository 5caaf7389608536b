"""When a probe or a plot of P(fake) can show nothing, and what is said then."""

import dataclasses
import types

import numpy as np
import pytest
import torch

from models.judging import page
from models.judging.annotate import _score
from models.judging.evidence import ROUNDING_STEPS, rounding_of, saturated_probes
from models.judging.verdict import FaceVerdict
from utils.run.device import exact_float32

FACE = FaceVerdict(
    verdict="undecided", prob=0.5, logit=0.0, modalities={}, video_prob=None, audio_prob=None, off_domain=[],
    first_frame=0, num_frames=4, num_frames_with_face=4, face_height_px=90.0, num_windows=1, segments=[],
    lag_curve={"delay_s": [-0.04, 0.0, 0.04], "logit": [5.0, 5.0, 5.0]}, regions={"eyes": 0.0, "nose": 0.0},
    frame_probs=np.full(4, 0.5), frame_logits=np.zeros(4), window_starts=[0], window_logits=np.zeros(1),
    saturated={},
)  # fmt: skip


def curve(*logits):
    return {"delay_s": [0.04 * place for place in range(len(logits))], "logit": list(logits)}


def test_the_steps_of_a_precision_grow_with_the_logit():
    assert rounding_of([5.0, -3.0], "fp32") == ROUNDING_STEPS * 2.0**-23 * 4
    assert rounding_of([-9.0], "fp32") == ROUNDING_STEPS * 2.0**-23 * 8
    assert rounding_of([0.01], "fp32") == ROUNDING_STEPS * 2.0**-23
    step = torch.nextafter(torch.tensor(5.0), torch.tensor(6.0)) - 5.0
    assert rounding_of([5.0], "fp32") == ROUNDING_STEPS * float(step)
    step = torch.nextafter(torch.tensor(5.0).bfloat16(), torch.tensor(6.0).bfloat16()).float() - 5.0
    assert rounding_of([5.0], "bf16") == ROUNDING_STEPS * float(step)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_probe_is_saturated_up_to_the_rounding_of_the_logit(precision):
    rounding = rounding_of([5.0], precision)
    for move, expected in ((0.0, True), (rounding, True), (-rounding, True), (1.01 * rounding, False)):
        said = saturated_probes(None, {"eyes": move, "nose": 0.0}, 5.0, precision)
        assert list(said) == (["regions"] if expected else [])
        said = saturated_probes(curve(5.0, 5.0 + move), None, 5.0, precision)
        assert list(said) == (["lag_curve"] if expected else [])


def test_what_moves_the_logit_in_float32_may_be_rounding_in_bf16():
    moves = curve(5.0, 5.1), {"mouth": 0.1}
    assert saturated_probes(*moves, 5.0, "fp32") == {}
    assert saturated_probes(*moves, 5.0, "bf16").keys() == {"lag_curve", "regions"}


def test_a_probe_that_was_not_made_is_not_saturated():
    assert saturated_probes(None, None, 5.0, "fp32") == {}


def test_a_saturated_probe_is_a_picture_of_words_and_another_one_names_its_size(tmp_path):
    said = saturated_probes(FACE.lag_curve, FACE.regions, 5.0, "fp32")
    flat = dataclasses.replace(FACE, saturated=said)
    for plot, name in ((page._plot_lag, "lag"), (page._plot_regions, "regions")):
        drawn = str(plot(tmp_path / f"{name}.png", flat))
        assert "saturated: " in drawn
        assert "moves the logit (5.000) by 0 at most" in drawn
        assert "delay" not in drawn
    lively = dataclasses.replace(FACE, lag_curve=curve(5.0, 5.25, 5.0))
    assert "moves the logit by 0.25" in str(page._plot_lag(tmp_path / "lag.png", lively))


@pytest.mark.parametrize(
    ("probs", "expected"),
    [
        ([0.999, 0.9999, 0.5, np.nan], True),
        ([0.001, 0.999, np.nan, np.nan], True),
        ([0.98, 0.98, 0.02, 0.5], False),
        ([0.999, 0.5, 0.5, np.nan], False),
        ([np.nan] * 4, False),
    ],
)
def test_probabilities_at_the_edge_of_their_plot_are_saturated(probs, expected):
    face = dataclasses.replace(FACE, frame_probs=np.array(probs))
    assert page.has_saturated_probs(face) == expected


def test_the_time_line_shows_logits_where_probabilities_are_saturated(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(page.pages, "save_plot", lambda figure, *_: drawn.append(figure.axes[0]))
    monkeypatch.setattr(page, "_envelope", lambda *_: (np.zeros(4), np.zeros(4)))
    logits = np.array([9.0, 9.5, 9.25, np.nan])
    probs = 1 / (1 + np.exp(-logits))
    for shown in (probs, np.array([0.4, 0.5, 0.6, np.nan])):
        face = dataclasses.replace(FACE, frame_probs=shown, frame_logits=logits)
        verdict = types.SimpleNamespace(
            faces=[face], fps=25.0, duration_s=0.16, threshold=0.75, threshold_logit=1.1, temperature=1.0
        )
        page._plot_timeline(tmp_path / "timeline.png", verdict, types.SimpleNamespace(sound=None))
    of_logits, of_probs = drawn
    assert of_logits.get_ylabel() == "logit"
    assert [list(line.get_ydata())[0] for line in of_logits.lines] == [1.1, 9.0]
    (right,) = of_logits.child_axes
    marks = dict(zip((text.get_text() for text in right.get_yticklabels()), right.get_yticks(), strict=True))
    assert marks["0.999"] == pytest.approx(np.log(999))
    assert "0.5" not in marks  # its place is below the axis
    assert of_probs.get_ylabel() == "P(fake)"
    assert [list(line.get_ydata())[0] for line in of_probs.lines] == [0.75, 0.4]


def test_a_label_in_the_video_has_the_logit_where_the_probability_says_nothing():
    assert _score(0.9962, 5.61) == "  P(fake) now 1.00, logit 5.6"
    assert _score(0.004, -5.6) == "  P(fake) now 0.00, logit -5.6"
    assert _score(0.9, 2.2) == "  P(fake) now 0.90"
    assert _score(np.nan, np.nan) == ""


def test_float32_is_exact_within_its_context_only():
    before = torch.backends.cudnn.allow_tf32
    try:
        for value in (True, False):
            torch.backends.cudnn.allow_tf32 = value
            with exact_float32():
                assert not torch.backends.cudnn.allow_tf32
            assert torch.backends.cudnn.allow_tf32 == value
    finally:
        torch.backends.cudnn.allow_tf32 = before
