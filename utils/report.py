"""Plots of an evaluation, as PNG files."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from utils.files import write_atomically

matplotlib.use("Agg")  # a server has no screen

import matplotlib.pyplot as plt  # noqa: E402

REAL_COLOR, FAKE_COLOR = "#2a6f97", "#c1440e"


def _save(figure: plt.Figure, path: Path) -> None:
    write_atomically(path, lambda partial: figure.savefig(partial, format="png", dpi=150))
    plt.close(figure)


def plot_roc(path: Path, groups: dict[str, tuple[np.ndarray, np.ndarray]], title: str) -> None:
    """ROC curves of {name: (labels, scores)}, every one with both classes."""
    figure, axes = plt.subplots(figsize=(5.5, 5), layout="constrained")
    for name, (labels, scores) in groups.items():
        false_positive, true_positive, _ = roc_curve(labels, scores, drop_intermediate=False)
        width = 2.2 if name == "all" else 1.2
        axes.plot(
            false_positive, true_positive, lw=width, label=f"{name}  AUC {roc_auc_score(labels, scores):.3f}"
        )
    axes.plot([0, 1], [0, 1], color="0.7", lw=1, ls="--")
    axes.set(
        xlabel="reals called fake (false-positive rate)",
        ylabel="fakes found (true-positive rate)",
        title=title,
    )
    axes.set_aspect("equal")
    axes.legend(loc="lower right", fontsize=8)
    _save(figure, path)


def plot_score_histogram(path: Path, labels: np.ndarray, probs: np.ndarray, title: str) -> None:
    """How P(fake) is distributed over reals and fakes, each class normalised to its own size."""
    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    bins = np.linspace(0, 1, 31)
    for value, name, color in ((0, "real", REAL_COLOR), (1, "fake", FAKE_COLOR)):
        chosen = probs[labels == value]
        weights = np.full(len(chosen), 1 / max(len(chosen), 1))
        axes.hist(
            chosen, bins, weights=weights, color=color, alpha=0.6, label=f"{name} ({len(chosen)} clips)"
        )
    axes.axvline(0.5, color="0.4", lw=1, ls="--")
    axes.set(xlabel="P(fake)", ylabel="share of the class", title=title, xlim=(0, 1))
    axes.legend()
    _save(figure, path)
