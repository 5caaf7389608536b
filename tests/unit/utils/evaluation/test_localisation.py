"""The localisation metric by hand, and against loops over files, labels and proposals."""

import itertools

import numpy as np
import pytest

from utils.errors import DatasetError
from utils.evaluation.bootstrap import NoStatisticError, PersonResamples
from utils.evaluation.localisation import (
    AP_IOUS,
    AR_COUNTS,
    AR_IOUS,
    FORMS,
    SCORE_COUNTS,
    LocatedFiles,
    Thresholds,
    WeightedMatches,
    localisation_difference,
    localisation_intervals,
    localisation_metrics,
    localisation_results,
    worst_misses,
)


def plain_iou(a, b, kind):
    (start, end), (other_start, other_end) = (tuple(map(kind, pair)) for pair in (a, b))
    inner = min(end, other_end) - max(start, other_start)
    outer = max(end, other_end) - min(start, other_start)
    return inner / outer if inner > 0 and outer > 0 else kind(0)


def plain_metrics(labels, proposals, fps, form):
    """Loops, written from the definition: each proposal takes the first label that is left."""
    kind = np.float32 if form == "official" else float
    reaches = (lambda iou, t: iou > np.float32(t)) if form == "official" else (lambda iou, t: iou >= t - 1e-9)
    num_labels = sum(map(len, labels))
    files = []
    for spans, rows in zip(labels, proposals, strict=True):
        rows = [(kind(c), kind(s) / kind(fps), kind(e) / kind(fps)) for c, s, e in rows]
        if form == "correct":
            rows = sorted(rows, key=lambda row: -row[0])
        files.append((spans, rows))
    ap = {}
    for t in AP_IOUS:
        scored = []
        for spans, rows in files:
            taken = set()
            for confidence, start, end in rows:
                hits = [
                    i for i, span in enumerate(spans)
                    if i not in taken and reaches(plain_iou((start, end), span, kind), t)
                ]  # fmt: skip
                taken.update(hits[:1])
                scored.append((confidence, bool(hits)))
        scored.sort(key=lambda pair: -pair[0])
        found, recall, precision = 0, [], []
        for number, (_, is_true) in enumerate(scored, start=1):
            found += is_true
            recall.append(found / num_labels)
            precision.append(found / number)
        total = 0.0
        for i in range(len(scored)):
            before = recall[i - 1] if i else 0.0
            if i or form == "correct":
                total += (recall[i] - before) * max(precision[i:])
        ap[str(t)] = total
    ar = {}
    for n in AR_COUNTS:
        recalls = []
        for t in AR_IOUS:
            hits = sum(
                any(reaches(plain_iou(row[1:], span, kind), t) for row in rows[:n])
                for spans, rows in files
                for span in spans
            )
            recalls.append(hits / num_labels)
        ar[str(n)] = float(np.mean(recalls))
    score = np.mean(list(ap.values())) / 2 + np.mean([ar[str(n)] for n in SCORE_COUNTS]) / 2
    return {"ap": ap, "ar": ar, "score": score}


def as_files(labels, proposals, fps=1.0):
    return LocatedFiles.of([f"{i}.mp4" for i in range(len(labels))], labels, proposals, fps)


def flat(metrics):
    named = {f"{key}{name}": value for key in ("ap", "ar") for name, value in metrics[key].items()}
    return named | {"score": metrics["score"]}


def random_files(seed, num_files=12):
    """Coarse numbers, so that confidences, ends and overlaps are often equal; some files are empty."""
    rng = np.random.default_rng(seed)
    labels, proposals = [], []
    for _ in range(num_files):
        starts = np.sort(rng.integers(0, 40, rng.integers(0, 4)))
        labels.append([(s / 4, (s + rng.integers(1, 9)) / 4) for s in starts.tolist()])
        rows = []
        for _ in range(rng.integers(0, 15)):
            start = int(rng.integers(0, 40))
            rows.append((int(rng.integers(0, 6)) / 5, start, start + int(rng.integers(0, 9))))
        if rng.random() < 0.5:
            rows.sort(key=lambda row: -row[0])
        proposals.append(rows)
    labels[0] = [(1.0, 2.0)]
    return labels, proposals


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(25))
def test_any_files_give_what_loops_give(seed, form):
    labels, proposals = random_files(seed)
    found = localisation_metrics(as_files(labels, proposals, 4.0), form)
    assert flat(found) == pytest.approx(flat(plain_metrics(labels, proposals, 4.0, form)), abs=1e-6)


def test_a_single_perfect_proposal_scores_0_officially_and_1_correctly():
    files = as_files([[(1.0, 2.0)]], [[(0.9, 25.0, 50.0)]], 25.0)
    official, correct = (localisation_metrics(files, form) for form in FORMS)
    assert set(official["ap"].values()) == {0.0}
    assert set(correct["ap"].values()) == {1.0}
    assert set(official["ar"].values()) == set(correct["ar"].values()) == {1.0}
    assert (official["score"], correct["score"]) == (0.5, 1.0)


def test_only_the_first_of_equal_proposals_is_true():
    """Two labels, of which one is proposed three times: precision 1 and 1/2, recall 1/2."""
    rows = [(0.9, 1.0, 2.0)] * 3
    found = localisation_metrics(as_files([[(1.0, 2.0), (5.0, 6.0)]], [rows]), "correct")
    assert found["ap"]["0.5"] == 0.5
    assert set(found["ar"].values()) == {0.5}


def test_a_false_one_before_a_true_one_halves_the_precision():
    rows = [(0.9, 7.0, 8.0), (0.8, 1.0, 2.0)]
    for form in FORMS:  # the first step, which is left out, has no recall
        assert localisation_metrics(as_files([[(1.0, 2.0)]], [rows]), form)["ap"]["0.95"] == 0.5


def test_equal_confidences_keep_the_order_of_input():
    true, false = (0.5, 1.0, 2.0), (0.5, 7.0, 8.0)
    labels = [[(1.0, 2.0)], []]
    for proposals, expected in (
        ([[true, false], []], 1.0),
        ([[false, true], []], 0.5),
        ([[true], [false]], 1.0),
    ):
        assert localisation_metrics(as_files(labels, proposals), "correct")["ap"]["0.5"] == expected
    swapped = as_files(labels[::-1], [[false], [true]])
    assert localisation_metrics(swapped, "correct")["ap"]["0.5"] == 0.5


def test_an_overlap_of_just_the_threshold_counts_in_the_correct_form_alone():
    files = as_files([[(0.0, 1.0)]], [[(0.9, 8.0, 9.0), (0.8, 0.0, 0.5)]])
    official, correct = (localisation_metrics(files, form) for form in FORMS)
    assert (official["ap"]["0.5"], correct["ap"]["0.5"]) == (0.0, 0.5)
    assert (official["ar"]["5"], correct["ar"]["5"]) == (0.0, pytest.approx(0.1))


def test_the_most_confident_proposals_are_those_of_the_first_rows_only_officially():
    rows = [(0.1, 7.0 + i, 8.0 + i) for i in range(5)] + [(0.9, 1.0, 2.0)]
    official, correct = (localisation_metrics(as_files([[(1.0, 2.0)]], [rows]), form) for form in FORMS)
    assert (official["ar"]["5"], official["ar"]["10"]) == (0.0, 1.0)
    assert (correct["ar"]["5"], correct["ar"]["10"]) == (1.0, 1.0)


def test_files_without_proposals_or_labels():
    files = as_files([[(1.0, 2.0)], [(1.0, 2.0)], []], [[(0.9, 1.0, 2.0)], [], [(0.95, 0.0, 1.0)]])
    found = localisation_metrics(files, "correct")
    assert found["ap"]["0.5"] == 0.25  # the real file's proposal comes first
    assert found["ar"]["5"] == 0.5
    nothing = as_files([[(1.0, 2.0)]], [[]])
    for form in FORMS:
        assert set(flat(localisation_metrics(nothing, form)).values()) == {0.0}
    with pytest.raises(DatasetError, match="nothing to find"):
        localisation_metrics(as_files([[]], [[(0.9, 1.0, 2.0)]]), "correct")


def test_the_worst_misses_come_first():
    labels = [[(1.0, 2.0), (5.0, 6.0)], [(0.0, 1.0)], [], [(2.0, 3.0)]]
    elsewhere = [(0.1 * i, i, i + 1) for i in range(4, 10)]
    proposals = [[(0.9, 1.0, 2.0)], [(0.2, 0.0, 1.0)], [(0.9, 0.0, 1.0)], elsewhere]
    found = worst_misses(as_files(labels, proposals))
    assert [miss["clip_id"] for miss in found] == ["3.mp4", "0.mp4", "1.mp4"]
    assert [miss["overlap"] for miss in found] == [0.0, 0.5, 1.0]
    assert [row[1] for row in found[0]["proposals"]] == [9, 8, 7, 6, 5]
    assert found[1]["segments"] == [[1.0, 2.0], [5.0, 6.0]]


def test_other_thresholds_have_no_score():
    at = Thresholds(ap_ious=(0.3,), ar_ious=(0.5,), ar_counts=(1,))
    found = localisation_metrics(as_files([[(0.0, 1.0)]], [[(0.9, 0.0, 0.4)]]), "correct", at)
    assert found == {"ap": {"0.3": 1.0}, "ar": {"1": 0.0}}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0.9, 1.0)], "0.mp4: proposals of shape"),
        ([(0.9, 1.0, float("nan"))], "not finite"),
        ([(0.9, "a", 2.0)], "not rows of numbers"),
        ([(0.9, 1.0, 2.0), (0.9, 1.0)], "not rows of numbers"),
    ],
)
def test_what_is_no_proposal_is_refused_by_name(rows, message):
    with pytest.raises(DatasetError, match=message):
        as_files([[(0.0, 1.0)]], [rows])


@pytest.mark.parametrize("seed", range(5))
def test_weights_of_persons_are_those_of_files_that_come_several_times(seed):
    labels, proposals = random_files(seed, num_files=9)
    # without ties, whose order among the copies of a file is another
    number = itertools.count()
    proposals = [[(c + next(number) / 1e3, start, end) for c, start, end in rows] for rows in proposals]
    persons = np.array([0, 1, 2, 0, 1, 2, 3, 3, 3])
    weights = np.random.default_rng(seed).integers(0, 3, (4, 4)).astype(float)
    weights[:, 0] += 1  # the person of the first file, which has a label
    found = WeightedMatches(as_files(labels, proposals, 4.0), persons).metrics(weights)
    for row, weight in enumerate(weights.astype(int)):
        times = [file for file, person in enumerate(persons) for _ in range(weight[person])]
        repeated = as_files([labels[file] for file in times], [proposals[file] for file in times], 4.0)
        expected = flat(localisation_metrics(repeated, "correct"))
        assert {name: values[row] for name, values in flat(found).items()} == pytest.approx(expected)


def many_files(num_persons):
    """Four files per person, every fourth without a label; proposals of half of the persons are right."""
    labels, proposals, persons = [], [], []
    for person in range(num_persons):
        for number in range(4):
            labels.append([] if number == 3 else [(1.0, 2.0)])
            right = person % 2 == 0 and number < 3
            proposals.append([(0.9, 1.0, 2.0) if right else (0.5, 4.0, 5.0)])
            persons.append(f"person {person}")
    return as_files(labels, proposals), persons


def test_intervals_widen_with_fewer_persons_and_enclose_the_value():
    widths = []
    for num_persons in (6, 40):
        files, persons = many_files(num_persons)
        intervals = localisation_intervals(files, persons, "the set")
        low, high = intervals["ap"]["0.5"]
        assert low < localisation_metrics(files, "correct")["ap"]["0.5"] < high
        assert intervals.keys() == {"ap", "ar", "score"}
        assert intervals["ar"].keys() == {str(count) for count in AR_COUNTS}
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1] > 0


def test_a_set_of_fakes_alone_has_intervals_and_one_person_has_not():
    files, persons = many_files(4)
    fakes = as_files([[(1.0, 2.0)]] * 16, [[(0.9, 1.0, 2.0)]] * 16)
    assert localisation_intervals(fakes, persons, "the set")["score"] == (1.0, 1.0)
    with pytest.raises(NoStatisticError, match="clips are of 1 identity"):
        localisation_intervals(files, ["one"] * 16, "the set")
    with pytest.raises(DatasetError, match="need both"):
        PersonResamples(np.ones(16), persons, "the set")


def test_two_detectors_are_compared_on_the_same_resamples_of_persons():
    files, persons = many_files(6)
    empty = as_files(*zip(*[(labels, []) for labels in [[(1.0, 2.0)]] * 3 + [[]]] * 6, strict=True))
    found = localisation_difference((files, empty), persons, "the set")["ap_0.5"]
    assert found["a"] == found["difference"] == localisation_metrics(files, "correct")["ap"]["0.5"]
    assert found["b"] == 0
    assert found["interval"] == list(localisation_intervals(files, persons, "the set")["ap"]["0.5"])
    same = localisation_difference((files, files), persons, "the set")
    assert {(row["difference"], *row["interval"]) for row in same.values()} == {(0, 0, 0)}
    others = as_files([[(1.0, 2.5)]] * 24, [[]] * 24)
    with pytest.raises(DatasetError, match="the same files with the same forged segments"):
        localisation_difference((files, others), persons, "the set")


def test_results_say_both_forms_and_why_there_is_no_number():
    files, persons = many_files(4)
    results = localisation_results(files, persons, "the set")
    assert results["official"]["score"] < results["correct"]["score"]
    assert (results["num_files"], results["num_files_with_segments"], results["num_segments"]) == (16, 12, 12)
    assert localisation_results(files, ["one"] * 16, "the set")["intervals"].keys() == {"reason"}
    no_labels = as_files([[], []], [[(0.9, 1.0, 2.0)], []])
    about = localisation_results(no_labels, ["a", "b"], "the set")
    assert about["reason"] == "the set has no forged segment"
    assert about["num_files_without_proposals"] == 1
