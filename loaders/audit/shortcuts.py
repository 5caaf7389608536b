"""Shortcuts: how well rules that look at no evidence separate fakes from reals, each alone and all together.

The fakes of each category, and all fakes ("all"), are compared with the same real clips. The AUC is that of
"more = fake"; below 0.5 the rule is "less = fake". Intervals (95 %) resample whole identities, since clips of
one person are alike.

A rule is FOUND if its interval lies entirely above 0.6 or below 0.4 and it is significant among all rules and
groups (Mann-Whitney, p < 0.05 after Holm's correction). It is OPEN if its AUC lies outside [0.4, 0.6] but is
not FOUND: there are too few clips. Learned scores (codec, colour, landmark backend, classifier) come from
five-fold cross-validation over identities; only AUCs above 0.6 count for them.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.stats import mannwhitneyu, rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold

from loaders.audit.facts import ClipFacts
from loaders.audit.findings import Finding
from utils.clip.backends import REMEDY
from utils.clip_type import Clip
from utils.evaluation.metrics import Floats, Labels, Rows, area_under_roc
from utils.evaluation.significance import holm

ALL_FAKES = "all"
LOW, HIGH = 0.4, 0.6  # an AUC between these is treated as chance
SIGNIFICANCE = 0.05
NUM_RESAMPLES = 2000
MAX_BINS = 1024  # of a rule's values in the resampling; the AUC itself is exact
MIN_IDENTITIES = 5  # of each class, for an interval
NUM_FOLDS = 5
CODEC, COLOUR, BACKEND, CLASSIFIER = "codec", "colour", "landmark_backend", "classifier"
LEARNED = (CODEC, COLOUR, BACKEND, CLASSIFIER)

_ENCODE = (
    "encode the raw clips of both classes with the same settings and prepare them again; compare classes "
    "only within one setting"
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
    COLOUR: ("transfer, primaries and depth of colours", _ENCODE),
    "interlaced": ("interlaced", _ENCODE),
    "loudness": ("loudness (dB)", _SOUND),
    "padding_share": ("share of padded sound", _LENGTH),
    "num_faces": ("number of faces", _FACES),
    "face_size": ("face size (pixels)", _FACES),
    "no_face_share": ("share of frames without a face", _FACES),
    BACKEND: ("networks that found the face (landmark backend)", REMEDY),
    "crop_bit_rate": ("bit rate of the crop (bit/s)", _ENCODE),
    "sharpness": ("sharpness of the crop", _ENCODE),
    "brightness": ("brightness of the crop", _LIGHT),
    CLASSIFIER: (
        "small classifier on all of these",
        "remedy the single rules; if none is found, a detector within a few points of this AUC shows nothing",
    ),
}


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """One rule on one group of fakes against all reals."""

    rule: str
    group: str  # a category of fakes, or ALL_FAKES
    state: str  # found, open, ok, constant (AUC 0.5 by definition), unknown (known for one class or none)
    num_fake: int  # clips for which the value is known
    num_real: int
    auc: float | None = None
    low: float | None = None  # 95 % interval; None: too few identities
    high: float | None = None
    p_value: float | None = None  # Mann-Whitney, two-sided (learned scores: one-sided), not corrected
    median_fake: float | None = None
    median_real: float | None = None

    @property
    def known_auc(self) -> float:
        """The AUC of a result whose state is not "unknown"."""
        assert self.auc is not None, f"{self.rule} is unknown on {self.group}"
        return self.auc

    @property
    def strength(self) -> float:
        """The AUC, or 1 - AUC if that is larger."""
        return max(self.known_auc, 1 - self.known_auc)

    @property
    def direction(self) -> str:
        """Which values mean fake."""
        if self.rule in LEARNED:
            return "learned"
        return "more = fake" if self.known_auc >= 0.5 else "less = fake"

    @property
    def shown_interval(self) -> tuple[float, ...]:
        """The interval, mirrored if less = fake; () if there is none. It may begin below 0.5."""
        if self.low is None or self.high is None:
            return ()
        return (1 - self.high, 1 - self.low) if self.direction == "less = fake" else (self.low, self.high)


class Resamples:
    """Bootstrap over clusters; every rule uses the same draws of identities, so rules can be compared."""

    def __init__(self, num_clusters: int, *, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> None:
        rng = np.random.default_rng(seed)
        self.counts = np.empty((num_clusters, num_resamples), np.float32)  # how often each is drawn
        for index in range(num_resamples):
            drawn = rng.integers(num_clusters, size=num_clusters)
            self.counts[:, index] = np.bincount(drawn, minlength=num_clusters)

    def _histogram(self, bins: Rows, clusters: Rows, num_bins: int) -> npt.NDArray[np.float32]:
        """(num_bins, resamples): number of clips of each resample in each bin."""
        shape = (num_bins, len(self.counts))
        ones = np.ones(len(bins), np.float32)
        histogram: npt.NDArray[np.float32] = sparse.csr_matrix((ones, (bins, clusters)), shape) @ self.counts
        return histogram

    def auc_interval(self, values: Floats, labels: Labels, clusters: Rows) -> tuple[float, float] | None:
        """95 % interval of the AUC; None if more than 10 % of the resamples lack a class."""
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
        # an identity drawn twice is compared with itself twice, which shifts the mean of all resamples
        low, high = np.percentile(aucs, (2.5, 97.5)) - (aucs.mean() - area_under_roc(labels, values))
        return float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))


def _enough_identities(labels: Labels, clusters: Rows) -> bool:
    return all(len(np.unique(clusters[labels == label])) >= MIN_IDENTITIES for label in (0, 1))


def judge_rule(
    rule: str, group: str, values: Floats, labels: Labels, clusters: Rows, resamples: Resamples
) -> RuleResult:
    """One rule on one group, before Holm's correction. values: (n,), NaN = unknown."""
    known = ~np.isnan(values)
    values, labels, clusters = values[known], labels[known], clusters[known]
    num_fake, num_real = int((labels == 1).sum()), int((labels == 0).sum())
    result = RuleResult(rule=rule, group=group, state="unknown", num_fake=num_fake, num_real=num_real)
    if num_fake == 0 or num_real == 0:
        return result
    if rule not in LEARNED:  # measurements, not scores
        median_fake, median_real = (float(np.median(values[labels == label])) for label in (1, 0))
        result = dataclasses.replace(result, median_fake=median_fake, median_real=median_real)
    if values.min() == values.max():
        return dataclasses.replace(result, state="constant", auc=0.5)
    auc = area_under_roc(labels, values)
    alternative = "greater" if rule in LEARNED else "two-sided"
    p_value = float(mannwhitneyu(values[labels == 1], values[labels == 0], alternative=alternative).pvalue)
    state = "open" if auc > HIGH or (auc < LOW and rule not in LEARNED) else "ok"
    low = high = None
    if _enough_identities(labels, clusters) and (
        interval := resamples.auc_interval(values, labels, clusters)
    ):
        low, high = interval
        if low > HIGH or (high < LOW and rule not in LEARNED):
            state = "found"
    return dataclasses.replace(result, state=state, auc=auc, low=low, high=high, p_value=p_value)


def correct(results: Sequence[RuleResult]) -> list[RuleResult]:
    """The same results, but what is found and not significant after Holm's correction is "open"."""
    tested = {index: result.p_value for index, result in enumerate(results) if result.p_value is not None}
    corrected = list(results)
    for index, p_value in zip(tested, holm(list(tested.values())), strict=True):
        if p_value >= SIGNIFICANCE and corrected[index].state == "found":
            corrected[index] = dataclasses.replace(corrected[index], state="open")
    return corrected


def folds(labels: Labels, clusters: Rows) -> list[tuple[Rows, Rows]]:
    """[(training rows, held-out rows), ...] over identities; empty if there are too few of them."""
    if not _enough_identities(labels, clusters):
        return []
    splitter = StratifiedGroupKFold(NUM_FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():  # a class may have fewer clips than folds
        warnings.simplefilter("ignore", UserWarning)
        pairs = list(splitter.split(labels, labels, clusters))
    return [(train, test) for train, test in pairs if len(set(labels[train])) == 2 and len(test)]


def held_out_scores(features: Floats, labels: Labels, clusters: Rows) -> Floats:
    """(n,) log-odds from gradient-boosted trees trained on other identities; NaN without folds."""
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


def held_out_shares(names: npt.NDArray[np.str_], labels: Labels, clusters: Rows) -> Floats:
    """(n,) log ratio of a name's share among fakes to its share among reals, on other identities.

    One clip of each class is added. NaN where the name is unknown ("") or without folds.
    """
    scores = np.full(len(labels), np.nan)
    for train, test in folds(labels, clusters):
        fake = labels[train] == 1
        for name in set(names[test]) - {""}:
            of_name = names[train] == name
            share_of_fakes = ((of_name & fake).sum() + 1) / (fake.sum() + 1)
            share_of_reals = ((of_name & ~fake).sum() + 1) / ((~fake).sum() + 1)
            scores[test[names[test] == name]] = np.log(share_of_fakes / share_of_reals)
    return scores


def name_scores(names: npt.NDArray[np.str_], labels: Labels, clusters: Rows) -> Floats:
    """`held_out_shares`, but 0 for all if there is one name only: that is known without folds."""
    if len(set(names)) == 1 and names[0]:
        return np.zeros(len(names))
    return held_out_shares(names, labels, clusters)


def find_shortcuts(clips: Sequence[Clip], facts: Sequence[ClipFacts]) -> list[RuleResult]:
    """Every rule on every group. The clips must have both classes."""
    labels = np.array([clip.label for clip in clips])
    categories = np.array([clip.category for clip in clips])
    identities, clusters = np.unique([clip.identity for clip in clips], return_inverse=True)
    names = {rule: np.array([fact.names[rule] for fact in facts]) for rule in facts[0].names}
    columns = {name: np.array([fact.numbers[name] for fact in facts]) for name in facts[0].numbers}
    kinds = [of_clips == name for of_clips in names.values() for name in sorted(set(of_clips) - {""})]
    features = np.stack([*columns.values(), *kinds], axis=1).astype(float)
    resamples = Resamples(len(identities), num_resamples=NUM_RESAMPLES if len(identities) < 20_000 else 500)
    groups = {ALL_FAKES: np.ones(len(clips), bool)}
    for category in sorted(set(categories[labels == 1])):
        groups[str(category)] = (labels == 0) | (categories == category)
    results = []
    for group, rows in groups.items():
        here = labels[rows], clusters[rows]
        values = {name: column[rows] for name, column in columns.items()}
        values |= {rule: name_scores(of_clips[rows], *here) for rule, of_clips in names.items()}
        values[CLASSIFIER] = held_out_scores(features[rows], *here)
        results += [judge_rule(rule, group, values[rule], *here, resamples) for rule in RULES]
    return correct(results)


def shortcut_findings(results: Sequence[RuleResult]) -> list[Finding]:
    """One finding per rule that is found, with its groups as examples, and one note on all open ones."""
    findings = []
    for rule, (what, remedy) in RULES.items():
        found = [result for result in results if result.rule == rule and result.state == "found"]
        if found:
            worst = max(found, key=lambda result: result.strength)
            group = "all fakes" if worst.group == ALL_FAKES else worst.group
            summary = f"{what} alone reaches AUC {worst.strength:.3f} on {group}"
            findings.append(Finding(f"shortcut_{rule}", summary, remedy, [describe(r) for r in found]))
    undecided = [f"{r.rule} on {r.group}: {r.auc:.3f}" for r in results if r.state == "open"]
    if undecided:
        summary = f"{len(undecided)} AUCs are outside 0.4 to 0.6, but there are too few clips to be sure"
        remedy = "audit more clips, or read the table with care"
        findings.append(Finding("note_undecided", summary, remedy, undecided, is_note=True))
    return findings


def describe(result: RuleResult) -> str:
    """A line such as "all: AUC 0.980 (0.961 to 0.993), more = fake; median 0.12 in fakes, 0 in reals"."""
    line = (
        f"{result.group}: AUC {result.strength:.3f} "
        f"({', '.join(f'{bound:.3f}' for bound in result.shown_interval)}), {result.direction}"
    )
    if result.median_fake is not None:
        line += f"; median {result.median_fake:.6g} in fakes, {result.median_real:.6g} in reals"
    return line
