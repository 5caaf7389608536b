"""Shortcuts: how well rules that need no detector tell fakes from reals, each alone and all together.

The fakes of each category, and all fakes ("all"), stand against the same real clips. An AUC is that of
"more = fake"; below 0.5 the rule reads "less = fake". Intervals (95 %) come from resampling whole identities,
since clips of one person are alike.

A rule is FOUND when two things hold: its interval lies wholly above 0.6 or wholly below 0.4, and it is no
accident among all the rules and groups that were looked at (Mann-Whitney, p < 0.05 after Holm's correction).
It is OPEN when only its AUC lies beyond 0.4 to 0.6: too few clips to say. Scores that were learned (codec,
classifier) come from five-fold cross-validation over identities; only above 0.6 do they mean anything.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.stats import mannwhitneyu, rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold

from loaders.audit.facts import ClipFacts
from loaders.audit.findings import Finding
from utils.types import Clip

ALL_FAKES = "all"
LOW, HIGH = 0.4, 0.6  # between them a rule is worth nothing
SIGNIFICANCE = 0.05
NUM_RESAMPLES = 2000
MAX_BINS = 1024  # of a rule's values in the resampling; the AUC itself is exact
MIN_IDENTITIES = 5  # an interval from fewer says nothing
NUM_FOLDS = 5
CODEC, CLASSIFIER = "codec", "classifier"
LEARNED = (CODEC, CLASSIFIER)

_ENCODE = (
    "encode the raw clips of both classes with the same settings and prepare them again; compare classes at "
    "one setting only"
)
_LENGTH = (
    "re-balance: cut all clips to common lengths before preparing, and keep --window_s below the shortest "
    "clip so that no window is padded"
)
_SILENCE = (
    "train and test with --trim_silence, which starts windows after the leading silence of all clips; "
    "training windows start at random"
)
_SOUND = "bring the sound of all clips to one loudness before preparing; leave silent clips out"
_FACES = "re-balance: leave out or weight clips so that both classes have faces like these"
_LIGHT = "train with --augment; re-encode both classes alike and compare again"
RULES: dict[str, tuple[str, str]] = {  # name -> (what it is, remedy)
    "leading_silence": ("leading silence (s)", _SILENCE),
    "leading_digital_silence": ("leading digital silence (s)", _SILENCE),
    "duration": ("duration (s)", _LENGTH),
    "frame_rate": ("frame rate (1/s)", _ENCODE),
    "variable_frame_rate": ("variable frame rate", _ENCODE),
    "resolution": ("resolution (pixels)", _ENCODE),
    "file_size": ("raw file size (bytes)", _ENCODE),
    "bit_rate": ("raw bit rate (bit/s)", _ENCODE),
    CODEC: ("codec", _ENCODE),
    "loudness": ("loudness (dB)", _SOUND),
    "padding_share": ("share of padded sound", _LENGTH),
    "num_faces": ("number of faces", _FACES),
    "face_size": ("face size (pixels)", _FACES),
    "no_face_share": ("share of frames without a face", _FACES),
    "crop_bit_rate": ("bit rate of the crop (bit/s)", _ENCODE),
    "sharpness": ("sharpness of the crop", _ENCODE),
    "brightness": ("brightness of the crop", _LIGHT),
    CLASSIFIER: (
        "small classifier on all of these",
        "remedy the single rules; if none is found, treat results within a few points of this AUC as nothing",
    ),
}


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """One rule on one group of fakes against all reals."""

    rule: str
    group: str  # a category of fakes, or ALL_FAKES
    state: str  # found, open, ok, constant (AUC 0.5 by definition), unknown (not known of enough clips)
    num_fake: int  # of which the rule's value is known
    num_real: int
    auc: float | None = None
    low: float | None = None  # 95 % interval; None: too few identities
    high: float | None = None
    p_value: float | None = None  # Mann-Whitney, two-sided (learned scores: one-sided), not corrected
    median_fake: float | None = None
    median_real: float | None = None


def exact_auc(values: np.ndarray, labels: np.ndarray) -> float:
    """Share of (fake, real) pairs in which the fake has the larger value; a tie counts one half."""
    fake = labels == 1
    num_fake, num_real = int(fake.sum()), int((~fake).sum())
    ranks = rankdata(values)
    return float((ranks[fake].sum() - num_fake * (num_fake + 1) / 2) / (num_fake * num_real))


class Resamples:
    """Bootstrap over clusters: the same draws of identities for every rule, so that rules can be compared."""

    def __init__(self, num_clusters: int, *, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> None:
        rng = np.random.default_rng(seed)
        self.counts = np.empty((num_clusters, num_resamples), np.float32)  # how often each is drawn
        for index in range(num_resamples):
            drawn = rng.integers(num_clusters, size=num_clusters)
            self.counts[:, index] = np.bincount(drawn, minlength=num_clusters)

    def _histogram(self, bins: np.ndarray, clusters: np.ndarray, num_bins: int) -> np.ndarray:
        """(num_bins, resamples): how many of the clips each resample has in each bin."""
        shape = (num_bins, len(self.counts))
        return sparse.csr_matrix((np.ones(len(bins), np.float32), (bins, clusters)), shape) @ self.counts

    def auc_interval(
        self, values: np.ndarray, labels: np.ndarray, clusters: np.ndarray
    ) -> tuple[float, float] | None:
        """95 % interval of `exact_auc`, None where resamples often lack a class."""
        known, bins = np.unique(values, return_inverse=True)
        if len(known) > MAX_BINS:  # ranks cut into equal parts
            bins = (rankdata(values) - 1).astype(np.int64) * MAX_BINS // len(values)
        num_bins, fake = int(bins.max()) + 1, labels == 1
        fakes = self._histogram(bins[fake], clusters[fake], num_bins)
        reals = self._histogram(bins[~fake], clusters[~fake], num_bins)
        below = np.cumsum(reals, axis=0) - reals / 2
        num_pairs = fakes.sum(axis=0, dtype=np.float64) * reals.sum(axis=0, dtype=np.float64)
        usable = num_pairs > 0
        if usable.mean() < 0.9:
            return None
        aucs = (fakes * below).sum(axis=0, dtype=np.float64)[usable] / num_pairs[usable]
        # an identity drawn twice is compared with itself twice, which pulls all resamples to one side
        low, high = np.percentile(aucs, (2.5, 97.5)) - (aucs.mean() - exact_auc(values, labels))
        return float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))


def judge_rule(
    rule: str,
    group: str,
    values: np.ndarray,
    labels: np.ndarray,
    clusters: np.ndarray,
    resamples: Resamples,
) -> RuleResult:
    """One rule on one group. values: (n,) NaN = unknown; the state is "found" before Holm's correction."""
    known = ~np.isnan(values)
    values, labels, clusters = values[known], labels[known], clusters[known]
    num_fake, num_real = int((labels == 1).sum()), int((labels == 0).sum())
    result = RuleResult(rule=rule, group=group, state="unknown", num_fake=num_fake, num_real=num_real)
    if num_fake == 0 or num_real == 0:
        return result
    medians = {
        "median_fake": float(np.median(values[labels == 1])),
        "median_real": float(np.median(values[labels == 0])),
    }
    if rule in LEARNED:  # scores, not measurements
        medians = {}
    if values.min() == values.max():
        return dataclasses.replace(result, state="constant", auc=0.5, **medians)
    auc = exact_auc(values, labels)
    alternative = "greater" if rule in LEARNED else "two-sided"
    p_value = float(mannwhitneyu(values[labels == 1], values[labels == 0], alternative=alternative).pvalue)
    enough = all(len(np.unique(clusters[labels == label])) >= MIN_IDENTITIES for label in (0, 1))
    interval = resamples.auc_interval(values, labels, clusters) if enough else None
    low, high = interval or (None, None)
    beyond = auc > HIGH or (auc < LOW and rule not in LEARNED)
    wholly = interval is not None and (low > HIGH or (high < LOW and rule not in LEARNED))
    return dataclasses.replace(
        result,
        state="found" if wholly else "open" if beyond else "ok",
        auc=auc,
        low=low,
        high=high,
        p_value=p_value,
        **medians,
    )


def holm(results: Sequence[RuleResult]) -> list[RuleResult]:
    """The same results; what is found but not significant after Holm's correction becomes open."""
    tested = sorted((r.p_value, index) for index, r in enumerate(results) if r.p_value is not None)
    corrected = list(results)
    rejected = True
    for place, (p_value, index) in enumerate(tested):
        rejected = rejected and p_value * (len(tested) - place) < SIGNIFICANCE
        if not rejected and corrected[index].state == "found":
            corrected[index] = dataclasses.replace(corrected[index], state="open")
    return corrected


def folds(labels: np.ndarray, clusters: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(training rows, held-out rows) over identities; none if there are too few of them."""
    fewest = min((len(np.unique(clusters[labels == label])) for label in (0, 1)), default=0)
    if fewest < MIN_IDENTITIES:
        return []
    splitter = StratifiedGroupKFold(NUM_FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():  # a class may have fewer clips than folds in one of them
        warnings.simplefilter("ignore", UserWarning)
        pairs = list(splitter.split(labels, labels, clusters))
    return [(train, test) for train, test in pairs if len(set(labels[train])) == 2 and len(test)]


def held_out_scores(features: np.ndarray, labels: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """(n,) log-odds of gradient-boosted trees that have not seen the clip's identity; NaN without folds."""
    scores = np.full(len(labels), np.nan)
    for train, test in folds(labels, clusters):
        trees = HistGradientBoostingClassifier(
            max_iter=60,
            max_leaf_nodes=8,
            min_samples_leaf=int(np.clip(len(train) // 20, 2, 20)),
            l2_regularization=1.0,
            class_weight="balanced",
            random_state=0,
            early_stopping=False,
        )
        varies = [len(set(column[~np.isnan(column)])) > 1 for column in features[train].T]
        if any(varies):
            trees.fit(features[train][:, varies], labels[train])
            scores[test] = trees.decision_function(features[test][:, varies])
        else:
            scores[test] = 0.0
    return scores


def held_out_shares(names: np.ndarray, labels: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """(n,) how much more common a clip's category is among fakes than reals of other identities (log ratio,
    one clip of each class added); NaN where the category is unknown ("") or without folds.
    """
    scores = np.full(len(labels), np.nan)
    for train, test in folds(labels, clusters):
        for name in set(names[test]) - {""}:
            shares = [
                ((names[train] == name) & (labels[train] == label)).sum() + 1.0 for label in (1, 0)
            ] / np.array([(labels[train] == label).sum() + 1.0 for label in (1, 0)])
            scores[test[names[test] == name]] = np.log(shares[0] / shares[1])
    return scores


def find_shortcuts(clips: Sequence[Clip], facts: Sequence[ClipFacts]) -> list[RuleResult]:
    """Every rule on every group. Both classes must be there."""
    labels = np.array([clip.label for clip in clips])
    categories = np.array([clip.category for clip in clips])
    identities, clusters = np.unique([clip.identity for clip in clips], return_inverse=True)
    codecs = np.array([fact.codec for fact in facts])
    columns = {name: np.array([fact.numbers[name] for fact in facts]) for name in facts[0].numbers}
    known_codecs = sorted(set(codecs) - {""})
    features = np.stack([*columns.values(), *(codecs == name for name in known_codecs)], axis=1).astype(float)
    resamples = Resamples(len(identities), num_resamples=NUM_RESAMPLES if len(identities) < 20_000 else 500)
    groups = {ALL_FAKES: np.ones(len(clips), bool)}
    for category in sorted(set(categories[labels == 1])):
        groups[str(category)] = (labels == 0) | (categories == category)
    results = []
    for group, rows in groups.items():
        here = labels[rows], clusters[rows]
        codec_scores = held_out_shares(codecs[rows], *here)
        if len(set(codecs[rows])) == 1 and known_codecs:
            codec_scores = np.zeros(rows.sum())  # one codec: constant, known without folds
        values: Mapping[str, np.ndarray] = {
            **{name: column[rows] for name, column in columns.items()},
            CODEC: codec_scores,
            CLASSIFIER: held_out_scores(features[rows], *here),
        }
        results += [judge_rule(rule, group, values[rule], *here, resamples) for rule in RULES]
    return holm(results)


def shortcut_findings(results: Sequence[RuleResult]) -> list[Finding]:
    """One finding per rule that is found, with the groups where it is."""
    findings = []
    for rule, (what, remedy) in RULES.items():
        found = [result for result in results if result.rule == rule and result.state == "found"]
        if found:
            worst = max(found, key=lambda result: abs(result.auc - 0.5))
            findings.append(
                Finding(
                    kind=f"shortcut_{rule}",
                    summary=f"{what} alone reaches AUC {max(worst.auc, 1 - worst.auc):.3f} on "
                    f"{worst.group if worst.group != ALL_FAKES else 'all fakes'}",
                    remedy=remedy,
                    examples=[describe(result) for result in found],
                )
            )
    return findings


def describe(result: RuleResult) -> str:
    """A line such as "all: AUC 0.980 (0.961 to 0.993), more = fake; median 0.12 in fakes, 0 in reals"."""
    line = (
        f"{result.group}: AUC {max(result.auc, 1 - result.auc):.3f} "
        f"({', '.join(f'{bound:.3f}' for bound in direction_free(result))}), {direction(result)}"
    )
    if result.median_fake is not None:
        line += f"; median {result.median_fake:.6g} in fakes, {result.median_real:.6g} in reals"
    return line


def direction(result: RuleResult) -> str:
    """Which way the rule points."""
    if result.rule in LEARNED:
        return "learned"
    return "more = fake" if result.auc >= 0.5 else "less = fake"


def direction_free(result: RuleResult) -> tuple[float, ...]:
    """The interval, turned round with the AUC where the rule reads "less = fake"; () if there is none.

    It may reach below 0.5: that is what makes it honest.
    """
    if result.low is None:
        return ()
    if result.auc < 0.5 and result.rule not in LEARNED:
        return 1 - result.high, 1 - result.low
    return result.low, result.high
