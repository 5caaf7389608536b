"""Metrics of a model that tells EMOTIONS apart: (n, C) logits, and (n,) places of the true ones.

A class without clips has no recall and no AUC, and means are over the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit, softmax
from sklearn.metrics import confusion_matrix

from utils.clip_type import EMOTIONS, Clip
from utils.errors import DatasetError
from utils.evaluation.bootstrap import (
    BLOCK_SIZE,
    CONFIDENCE,
    NUM_RESAMPLES,
    WeightedRoc,
    expanded_percentiles,
)
from utils.evaluation.metrics import Floats, Labels, area_under_roc, require_finite_scores
from utils.evaluation.scoring import ClipScores
from utils.evaluation.units import kinds_of


def class_metrics(places: Labels, logits: Floats, what: str) -> dict[str, Any]:
    """Accuracy, mean recall and AUC of (n, C) logits against (n,) places of the classes.

    "macro_auc" is the mean over the classes of each against the rest, by the softmax. "macro_auc_sigmoid" is
    that by the sigmoid of each logit, as 2D3MF's code has it: it compares logits of different clips without
    the other logits of these. Raises DatasetError, naming `what`, without two classes or with a logit that is
    not finite.
    """
    require_finite_scores(logits, what)
    places = places.astype(np.int64)
    present = np.unique(places)
    if len(present) < 2:
        raise DatasetError(f"{what} has clips of one emotion only: AUC needs two")
    called, probs = logits.argmax(axis=1), softmax(logits, axis=1)
    recalls = {place: float((called[places == place] == place).mean()) for place in present}
    by_softmax, by_sigmoid = (
        {place: area_under_roc(places == place, scores[:, place]) for place in present}
        for scores in (probs, expit(logits))
    )
    return {
        "num_clips": len(places),
        "accuracy": float((called == places).mean()),
        "chance": float((places == np.bincount(places).argmax()).mean()),  # accuracy of the commonest class
        "balanced_accuracy": float(np.mean(list(recalls.values()))),
        "macro_auc": float(np.mean(list(by_softmax.values()))),
        "macro_auc_sigmoid": float(np.mean(list(by_sigmoid.values()))),
        "per_class": {
            EMOTIONS[place]: {
                "num_clips": int((places == place).sum()),
                "recall": recalls[place],
                "auc": by_softmax[place],
            }
            for place in present.tolist()
        },
        # rows: the true class, columns: what it is called
        "confusion": confusion_matrix(places, called, labels=range(logits.shape[1])).tolist(),
    }


def class_intervals(places: Labels, logits: Floats, persons: Sequence[str]) -> dict[str, Any]:
    """95 % intervals of accuracy and macro AUC by bootstrap over persons, or {"reason": why there are none}.

    Resamples in which a class does not occur are left out of those of the AUC.
    """
    names, person_of = np.unique(np.asarray(persons, str), return_inverse=True)
    about = {"confidence": CONFIDENCE, "num_resamples": NUM_RESAMPLES, "num_persons": len(names)}
    if len(names) < 2:
        return {**about, "reason": "the clips are of one identity; an interval over them needs two"}
    places, probs = places.astype(np.int64), softmax(logits, axis=1)
    is_right = np.bincount(person_of, weights=logits.argmax(axis=1) == places)
    num_clips = np.bincount(person_of)
    rocs = [WeightedRoc(places == place, probs[:, place], person_of) for place in np.unique(places)]
    rng, block = np.random.default_rng(0), max(1, BLOCK_SIZE // len(places))
    accuracies, aucs = [], []
    for start in range(0, NUM_RESAMPLES, block):
        size = min(block, NUM_RESAMPLES - start)
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size).astype(float)
        accuracies.append(counts @ is_right / (counts @ num_clips))
        with np.errstate(invalid="ignore", divide="ignore"):  # NaN where a class does not occur
            aucs.append(np.mean([roc.metrics(counts, ("auc",))["auc"] for roc in rocs], axis=0))
    values = {"accuracy": np.concatenate(accuracies), "macro_auc": np.concatenate(aucs)}
    return about | {
        name: expanded_percentiles(found[np.isfinite(found)], len(names)) for name, found in values.items()
    }


def class_results(clips: Sequence[Clip], scores: ClipScores, what: str) -> dict[str, Any]:
    """The numbers of test_metrics.json of a model of classes. Raises DatasetError as class_metrics."""
    assert scores.emotion_logits is not None
    ordered = scores.in_order(clips)
    metrics = class_metrics(scores.labels, scores.emotion_logits, what)
    intervals = class_intervals(scores.labels, scores.emotion_logits, [clip.identity for clip in ordered])
    num_fake = sum(clip.label for clip in ordered)
    known = {"num_real": len(ordered) - num_fake, "num_fake": num_fake, "accuracy": metrics["accuracy"]}
    return {
        # of real and fake it says nothing
        "overall": {**known, "auc": None, "ap": None, "eer": None, "macro_auc": metrics["macro_auc"]},
        "classes": metrics,
        "intervals": intervals | {"clustered_by": kinds_of(ordered)},
    }


def class_rows(clips: Sequence[Clip], scores: ClipScores) -> list[dict[str, Any]]:
    """The rows of predictions.csv of a model of classes: what a clip shows, and the share of each class."""
    assert scores.emotion_logits is not None
    probs = softmax(scores.emotion_logits, axis=1)
    return [
        {
            "clip_id": clip.clip_id,
            "identity": clip.identity,
            "identity_is": clip.identity_is,
            "category": clip.category,
            "emotion": EMOTIONS[int(scores.labels[row])],
            "called": EMOTIONS[int(probs[row].argmax())],
            **{f"prob_{name}": f"{prob:.6f}" for name, prob in zip(EMOTIONS, probs[row], strict=True)},
            "num_windows": scores.num_windows[row],
        }
        for row, clip in enumerate(scores.in_order(clips))
    ]
