import dataclasses
import functools
import math

import numpy as np
import pytest
import torch

from tests.clip_factory import make_batch
from utils.errors import DatasetError
from utils.evaluation.metrics import detection_metrics, equal_error_rate, true_positive_rate_at
from utils.evaluation.scoring import evaluate
from utils.run.resume import Best
from utils.run.training import NotFiniteError
from utils.types import DetectorOutput

# worked by hand: reals 0.1, 0.4, 0.6, fakes 0.35, 0.7, 0.8 -> 8 of 9 pairs in order
LABELS = np.array([0, 0, 0, 1, 1, 1])
SCORES = np.array([0.1, 0.4, 0.6, 0.35, 0.7, 0.8])


def test_metrics_equal_a_table_worked_by_hand():
    metrics = detection_metrics(LABELS, SCORES - 0.5, "table")
    assert metrics.auc == pytest.approx(7 / 9)  # 0.35 lies below 0.4 and 0.6
    assert metrics.ap == pytest.approx((1 + 1 + 3 / 5) / 3)
    assert metrics.eer == pytest.approx(1 / 3)
    assert metrics.accuracy == pytest.approx(4 / 6)
    assert metrics.balanced_accuracy == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert (metrics.num_real, metrics.num_fake, metrics.prevalence) == (3, 3, 0.5)


def test_eer_lies_between_the_points_of_the_roc():
    # 1 real of 2 at or above every fake but one: FPR jumps 0 -> 0.5 while TPR stands at 0.5, so they meet at
    # 0.5
    assert equal_error_rate(np.array([0, 0, 1, 1]), np.array([0.0, 0.6, 0.5, 0.7])) == pytest.approx(0.5)
    # all tied: the ROC is the diagonal and meets the counter-diagonal in the middle
    assert equal_error_rate(np.array([0, 0, 0, 1]), np.zeros(4)) == pytest.approx(0.5)
    assert equal_error_rate(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3])) == 0.0


def test_tpr_at_fpr_never_accuses_more_reals_than_allowed():
    labels = np.array([0] * 100 + [1] * 4)
    scores = np.concatenate([np.arange(100), [98.5, 99.5, 97.5, 10]])
    assert true_positive_rate_at(labels, scores, 0.01) == 0.5  # one real (99) may be accused: 98.5 and 99.5
    assert true_positive_rate_at(labels, scores, 0.05) == 0.75


@pytest.mark.parametrize("labels", [np.zeros(5), np.ones(5)])
def test_one_class_is_an_error_that_names_the_set(labels):
    with pytest.raises(DatasetError, match="the test split"):
        detection_metrics(labels, np.arange(5.0), "the test split")


def test_scores_that_are_not_finite_are_an_error():
    with pytest.raises(DatasetError, match="not finite"):
        detection_metrics(LABELS, np.where(SCORES == 0.7, np.nan, SCORES), "x")


def test_patience_counts_from_the_best_epoch_of_a_falling_and_a_flat_curve():
    best = Best(higher_is_better=False)
    assert [best.update(value) for value in (3.0, 2.0, 1.0, 0.5)] == [True] * 4
    assert best.epochs_since == 0  # a loss that keeps falling never runs out of patience
    assert [best.update(0.5) for _ in range(3)] == [False] * 3
    assert best.epochs_since == 3
    assert best.update(0.4)
    assert best.epochs_since == 0


class Scripted(torch.nn.Module):
    """Gives each window the logit in its waveform, and twice that to the heads named."""

    def __init__(self, *heads):
        super().__init__()
        self.heads = heads

    def forward(self, batch):
        logits = batch.waveform[:, 0]
        return DetectorOutput(logits=logits, **{f"{head}_logits": 2 * logits for head in self.heads})


def test_a_clips_score_is_the_mean_or_the_maximum_of_its_windows():
    windows = [make_batch(num_clips=1, num_frames=5, size=16, seed=i) for i in range(3)]
    batches = [
        dataclasses.replace(w, waveform=torch.full_like(w.waveform, value), clip_ids=(clip_id,))
        for w, value, clip_id in zip(windows, (-2.0, 4.0, 1.0), "aab", strict=True)
    ]
    for pooling, expected in (("mean", [1.0, 1.0]), ("max", [4.0, 1.0])):
        scores = evaluate(Scripted(), batches, torch.device("cpu"), pooling=pooling)
        assert scores.clip_ids == ["a", "b"]
        assert scores.logits.tolist() == expected
        assert scores.num_windows.tolist() == [2, 1]


@pytest.mark.parametrize(("term", "column"), [("total", "val_loss"), ("contrastive", "val_contrastive")])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_term_of_validation_that_is_not_finite_names_its_clips(term, column, value):
    """Scores may be fine then; the mean over the split would be NaN, and no epoch the best by it."""
    batches = [make_batch(num_clips=2, num_frames=5, size=16, seed=i) for i in range(2)]
    batches[1] = dataclasses.replace(batches[1], clip_ids=("c", "d"))

    class Criterion(torch.nn.Module):
        def forward(self, output, batch):
            assert not self.training  # as the model
            is_last = batch.clip_ids == ("c", "d")
            terms = {"total": torch.ones(()), "contrastive": torch.ones(())}
            return terms | ({term: torch.tensor(value)} if is_last else {})

    criterion = Criterion()
    score = functools.partial(evaluate, Scripted(), device=torch.device("cpu"), criterion=criterion)
    assert score(batches[:1]).mean_terms == {"total": 1.0, "contrastive": 1.0}
    assert criterion.training
    with pytest.raises(NotFiniteError, match=f"^{column} is {value} on the batch of clips c, d; look"):
        score(batches)


def test_a_term_of_some_clips_is_weighted_by_their_number():
    batches = [make_batch(num_clips=n, num_frames=5, size=16, seed=n) for n in (1, 2, 5)]

    class OfFakes(torch.nn.Module):
        def clips_of(self, output, batch):
            return {"fakes": int(batch.labels.sum())}

        def forward(self, output, batch):
            count = batch.labels.sum()
            value = torch.full((), float(len(batch.clip_ids)))
            return {"total": value, "fakes": value if count else torch.zeros(())}

    terms = evaluate(Scripted(), batches, torch.device("cpu"), criterion=OfFakes()).mean_terms
    assert terms["total"] == pytest.approx((1 + 4 + 25) / 8)
    assert terms["fakes"] == pytest.approx((1 * 2 + 2 * 5) / 3)  # 0, 1 and 2 fakes


def test_a_head_that_is_not_finite_is_no_score():
    class Broken(Scripted):
        def forward(self, batch):
            output = super().forward(batch)
            return dataclasses.replace(output, video_logits=output.logits * math.nan)

    with pytest.raises(NotFiniteError, match="a score is not finite"):
        evaluate(Broken(), [make_batch(num_clips=2, num_frames=5, size=16, seed=0)], torch.device("cpu"))


@pytest.mark.parametrize("heads", [(), ("video",), ("audio",), ("video", "audio")])
def test_a_method_with_one_head_keeps_it(heads):
    batches = [make_batch(num_clips=2, num_frames=5, size=16, seed=0)]
    scores = evaluate(Scripted(*heads), batches, torch.device("cpu"))
    for head, logits in (("video", scores.video_logits), ("audio", scores.audio_logits)):
        if head in heads:
            assert logits.tolist() == (2 * scores.logits).tolist()
        else:
            assert logits is None
