"""Metrics of a model that tells emotions apart, against scikit-learn's."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from tests.clip_factory import make_clip
from utils.clip_type import EMOTIONS
from utils.errors import DatasetError
from utils.evaluation.classes import class_intervals, class_metrics, class_results, class_rows
from utils.evaluation.metrics import require_both_classes
from utils.evaluation.scoring import ClipScores


def logits_of(places, seed=0, gain=1.0):
    return np.random.default_rng(seed).normal(size=(len(places), 8)) + gain * np.eye(8)[places]


def test_metrics_are_those_of_scikit_learn():
    places = np.random.default_rng(1).integers(8, size=200)
    logits = logits_of(places)
    found = class_metrics(places.astype(float), logits, "a set")
    expected = roc_auc_score(places, softmax(logits, axis=1), multi_class="ovr", average="macro")
    assert found["macro_auc"] == pytest.approx(expected, abs=1e-12)
    by_sigmoid = np.mean([roc_auc_score(places == k, logits[:, k]) for k in range(8)])
    assert found["macro_auc_sigmoid"] == pytest.approx(by_sigmoid, abs=1e-12)
    assert found["macro_auc_sigmoid"] != found["macro_auc"]
    called = logits.argmax(axis=1)
    assert found["accuracy"] == np.mean(called == places)
    assert found["chance"] == np.bincount(places).max() / 200
    assert found["confusion"][3][5] == ((places == 3) & (called == 5)).sum()
    assert np.sum(found["confusion"]) == 200
    assert found["per_class"]["sad"]["recall"] == np.mean(called[places == 3] == 3)
    assert found["balanced_accuracy"] == pytest.approx(
        np.mean([np.mean(called[places == k] == k) for k in range(8)])
    )


def test_an_emotion_without_clips_does_not_count():
    places = np.array([0, 0, 2, 2, 4])
    found = class_metrics(places, logits_of(places, gain=20), "a set")
    assert list(found["per_class"]) == ["neutral", "happy", "angry"]
    assert found["macro_auc"] == found["balanced_accuracy"] == found["accuracy"] == 1
    with pytest.raises(DatasetError, match="a set has clips of one emotion only"):
        class_metrics(np.zeros(3), logits_of([0, 0, 0]), "a set")
    with pytest.raises(DatasetError, match="1 scores are not finite"):
        class_metrics(places, np.where(np.arange(40).reshape(5, 8) == 3, np.nan, 0.0), "a set")


def test_intervals_are_over_persons():
    rng = np.random.default_rng(2)
    persons = np.repeat(np.arange(12), 16)
    places = np.tile(np.arange(8), 24)
    good = rng.random(12) < 0.5  # persons whose emotions are told well, and others
    logits = logits_of(places, 3) + np.where(good[persons], 4.0, 0.0)[:, None] * np.eye(8)[places]
    found = class_intervals(places, logits, [str(person) for person in persons])
    metrics = class_metrics(places, logits, "a set")
    for name in ("accuracy", "macro_auc"):
        assert found[name].low < metrics[name] < found[name].high
    as_clips = class_intervals(places, logits, [str(number) for number in range(len(places))])
    widths = [row["accuracy"].high - row["accuracy"].low for row in (found, as_clips)]
    assert widths[0] > 1.5 * widths[1]  # clips of a person are alike
    assert "two" in class_intervals(places, logits, ["one"] * len(places))["reason"]


def test_results_and_rows_name_the_emotions(tmp_path):
    clips = [
        make_clip(tmp_path / f"{i}", identity=f"p{i % 3}", label=i % 2, emotion=EMOTIONS[i % 8])
        for i in range(16)
    ]
    places = np.arange(16.0) % 8
    logits = logits_of(places.astype(int), gain=10)
    scores = ClipScores(
        clip_ids=[clip.clip_id for clip in clips[::-1]],
        labels=places[::-1],
        logits=np.zeros(16),
        video_logits=None,
        audio_logits=None,
        num_windows=np.ones(16, np.int64),
        window_logits=[],
        mean_terms={},
        emotion_logits=logits[::-1],
    )
    result = class_results(clips, scores, "a set")
    assert result["overall"] == {
        "num_real": 8, "num_fake": 8, "accuracy": 1.0, "auc": None, "ap": None, "eer": None, "macro_auc": 1.0
    }  # fmt: skip
    assert result["intervals"]["num_persons"] == 3
    rows = class_rows(clips, scores)
    assert [row["clip_id"] for row in rows] == [clip.clip_id for clip in clips[::-1]]
    assert all(row["emotion"] == row["called"] for row in rows)
    assert sum(float(rows[0][f"prob_{name}"]) for name in EMOTIONS) == pytest.approx(1, abs=1e-5)
    with pytest.raises(DatasetError, match="emotions for labels"):
        require_both_classes(places, "a set")
