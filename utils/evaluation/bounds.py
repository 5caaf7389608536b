"""Upper bounds of rates on new persons: clips of one person are alike, and count for less than of many."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, fdtri

from utils.evaluation.metrics import Floats

Persons = Sequence[str] | npt.NDArray[np.str_]  # (n,) the person on screen in each clip
LEVEL = 0.95  # of the bounds
# the correlation within persons is taken at the upper end of its one-sided interval of this level: with few
# persons it is little known, and taking it as too small promises too much
CORRELATION_LEVEL = 0.75


def correlation_within(
    values: Floats, persons: Persons, level: float = CORRELATION_LEVEL
) -> tuple[float, float]:
    """(largest plausible intraclass correlation of (n,) values, clips per person that it counts for).

    The upper end of the one-sided F interval of that level, one-way random-effects model (Searle, Casella
    and McCulloch, Variance Components, 1992, section 3.6). 1 if there is a single person, or no
    variance within.
    """
    _, person_of, counts = np.unique(np.asarray(persons, str), return_inverse=True, return_counts=True)
    num_clips, num_persons = len(values), len(counts)
    per_person = float((counts**2).sum() / num_clips)
    if num_clips == num_persons:  # one clip each: independent
        return 0.0, 1.0
    if num_persons == 1:
        return 1.0, per_person
    means = np.bincount(person_of, values) / counts
    within = float(((values - means[person_of]) ** 2).sum()) / (num_clips - num_persons)
    between = float((counts * (means - values.mean()) ** 2).sum()) / (num_persons - 1)
    if within == 0:
        return 1.0, per_person
    degrees = num_persons - 1, num_clips - num_persons
    ratio = between / within / float(fdtri(*degrees, 1 - level))
    average = (num_clips - per_person) / (num_persons - 1)
    return float(np.clip((ratio - 1) / (ratio - 1 + average), 0, 1)), per_person


def effective_number(values: Floats, persons: Persons, level: float = CORRELATION_LEVEL) -> float:
    """Number of independent clips that (n,) values of clips of some persons are worth.

    n / (1 + (m - 1) r) with r of `correlation_within` (the design effect, Kish, Survey Sampling, 1965).
    """
    correlation, per_person = correlation_within(values, persons, level)
    return len(values) / (1 + (per_person - 1) * correlation)


def rate_bound(num_above: int, values: Floats, persons: Persons, level: float = CORRELATION_LEVEL) -> float:
    """95 % upper bound of the share of clips of new persons above the (num_above + 1)-th largest of (n,).

    For n independent clips that share is Beta(k + 1, n - k) distributed; n and k are scaled to the effective
    number. For k = 0 that gives 1 - 0.05^(1/n), e.g. 0.26 for 10 independent clips and 0.01 for 299.
    """
    share = effective_number(values, persons, level) / len(values)
    return float(betaincinv(share * num_above + 1, share * (len(values) - num_above), LEVEL))


def lowest_threshold(logits: Floats, rate: float) -> tuple[float, int]:
    """(lowest threshold with at most the share `rate` of (n,) logits above it, how many may be above).

    With few logits the threshold is the largest of them.
    """
    # tolerance for products such as 0.29 * 100 = 28.999...
    allowed = min(math.floor(rate * len(logits) + 1e-9), len(logits) - 1)
    place = len(logits) - 1 - allowed
    return float(np.partition(logits, place)[place]), allowed


def threshold_above(logits: Floats, rate: float, persons: Persons) -> tuple[float, int, float]:
    """(`lowest_threshold`, number of the (n,) logits above it, 95 % bound).

    The bound is the upper one of the share of the clips of *new persons* above the threshold (`rate_bound`);
    persons: who is in each of the n clips.
    """
    threshold, allowed = lowest_threshold(logits, rate)
    return threshold, int((logits > threshold).sum()), rate_bound(allowed, logits, persons)
