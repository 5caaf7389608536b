import csv
import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from utils.errors import DatasetError, UsageError
from utils.evaluation.significance import delong_test, holm
from utils.report.compare import as_table, compare_runs, main, paired_difference, read_predictions

HEADER = ("clip_id", "identity", "category", "method", "label", "logit", "prob")


def clips(num_clips=120, num_persons=20, seed=0):
    """Rows without scores: every person has reals and fakes of two categories."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(num_clips):
        category = ("real", "A", "B")[i % 3]
        method = {"real": "real", "A": "swap", "B": rng.choice(["swap", "lips"])}[category]
        label = int(category != "real")
        rows.append([f"data/{i:03d}", f"p{i // 3 % num_persons}", category, str(method), label])
    return rows


def write_run(path, rows, strength, seed):
    """predictions.csv whose logits rise with the label by `strength`."""
    rng = np.random.default_rng(seed)
    logits = [row[4] * strength - strength / 2 + rng.normal() for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for row, logit in zip(rows, logits, strict=True):
            writer.writerow((*row, f"{logit:.6f}", "0"))
    return path


@pytest.fixture
def two_runs(tmp_path):
    rows = clips()
    return (
        write_run(tmp_path / "a/predictions.csv", rows, 3.0, seed=1),
        write_run(tmp_path / "b/predictions.csv", rows[::-1], 0.3, seed=2),
    )


def test_two_runs_are_compared_clip_by_clip_whatever_their_order(two_runs):
    comparison = compare_runs(two_runs, (0.5, 0.5))
    result = comparison["datasets"]["data"]
    a, b = (read_predictions(path) for path in two_runs)
    assert (a.clip_ids == b.clip_ids).all()
    overall = result["overall"]
    assert (overall["num_real"], overall["num_fake"], overall["num_persons"]) == (40, 80, 20)
    assert overall["auc_a"] == pytest.approx(roc_auc_score(a.labels, a.logits), abs=1e-12)
    assert overall["auc_b"] == pytest.approx(roc_auc_score(a.labels, b.logits), abs=1e-12)
    test = delong_test(a.labels, a.logits, b.logits, "x")
    assert overall["delong"]["p_value"] == test.p_value < 1e-3
    low, high = overall["intervals"]["difference"]
    assert 0 < low < overall["difference"] < high
    assert overall["intervals"]["auc_b"][0] < overall["auc_b"] < overall["intervals"]["auc_b"][1]
    right = [((run.logits > 0) == (run.labels == 1)) for run in (a, b)]
    assert overall["mcnemar"]["only_a_right"] == (right[0] & ~right[1]).sum()
    assert result["per_category"].keys() == {"A", "B"}
    assert result["per_category"]["A"]["num_real"] == 40
    assert result["per_method"].keys() == {"swap", "lips"}


def test_a_run_against_itself_differs_in_nothing(two_runs):
    overall = compare_runs((two_runs[0], two_runs[0]), (0.5, 0.5))["datasets"]["data"]["overall"]
    assert overall["difference"] == 0
    assert overall["intervals"]["difference"] == [0, 0]
    assert overall["delong"]["p_holm"] == overall["delong_persons"]["p_holm"] == 1
    assert overall["mcnemar"]["p_holm"] == 1


def test_pairs_of_runs_are_pooled_over_the_same_persons(two_runs, tmp_path):
    """The interval of a mean of pairs is narrower than each, as far as the pairs are independent."""
    first, second = two_runs
    pairs = [(first, second)]
    for seed in (3, 5, 7):
        names = [tmp_path / f"{name}_{seed}/predictions.csv" for name in "ab"]
        pairs.append((write_run(names[0], clips(), 3.0, seed), write_run(names[1], clips(), 0.3, seed + 1)))
    single = compare_runs((second, first), (0.5, 0.5))["datasets"]["data"]["overall"]
    one = paired_difference(pairs[:1])
    assert one["difference"] == pytest.approx(single["difference"], abs=1e-12)
    assert one["interval"] == pytest.approx(single["intervals"]["difference"], abs=1e-12)
    assert (one["num_runs"], one["num_persons"], one["clustered_by"]) == (1, 20, "identity")
    all_four = paired_difference(pairs)
    each = [paired_difference([pair])["difference"] for pair in pairs]
    assert all_four["difference"] == pytest.approx(np.mean(each), abs=1e-12)
    low, high = all_four["interval"]
    assert low < all_four["difference"] < high < 0
    assert high - low < one["interval"][1] - one["interval"][0]
    assert paired_difference([(first, first), (second, second)])["interval"] == [0, 0]
    other = write_run(tmp_path / "other/predictions.csv", clips(num_clips=60), 1.0, 1)
    with pytest.raises(DatasetError, match="do not have the same clips"):
        paired_difference([(first, second), (first, other)])


def test_each_run_is_held_to_its_own_threshold(two_runs):
    a = read_predictions(two_runs[0])
    overall = compare_runs(two_runs, (0.9, 0.5))["datasets"]["data"]["overall"]
    assert overall["accuracy_a"] == ((a.logits > np.log(9)) == (a.labels == 1)).mean()
    assert (
        overall["accuracy_a"]
        != compare_runs(two_runs, (0.5, 0.5))["datasets"]["data"]["overall"]["accuracy_a"]
    )


def test_a_comparison_says_what_either_evaluation_says(two_runs):
    def caveat(*found):
        for path, text in zip(two_runs, found, strict=True):
            path.with_name("test_metrics.json").write_text(json.dumps({"caveat": text}))
        comparison = compare_runs(two_runs, (0.5, 0.5))
        said = comparison["datasets"]["data"]["caveat"]
        assert not said or f"data: {said}" in as_table(comparison)
        return said

    assert caveat("x", "y") == "x; y"
    assert caveat("x", "x") == "x"
    assert caveat("", None) == ""  # not "None"


def test_holm_runs_over_data_sets_and_over_categories(tmp_path):
    for run, strength in (("a", 1.2), ("b", 0.8)):
        for seed, name in enumerate(("dfdc", "kodf", "ffpp")):
            write_run(
                tmp_path / run / name / "predictions.csv", clips(seed=seed), strength, 10 * ord(run) + seed
            )
    datasets = compare_runs((tmp_path / "a", tmp_path / "b"), (0.5, 0.5))["datasets"]
    assert list(datasets) == ["dfdc", "ffpp", "kodf"]
    for test in ("delong", "delong_persons", "mcnemar"):
        family = [result["overall"][test] for result in datasets.values()]
        assert [one["p_holm"] for one in family] == holm([one["p_value"] for one in family])
        family = [row[test] for result in datasets.values() for row in result["per_category"].values()]
        assert len(family) == 6
        assert [one["p_holm"] for one in family] == holm([one["p_value"] for one in family])
    with pytest.raises(DatasetError, match="has dfdc, ffpp, kodf, .* has one data set"):
        compare_runs((tmp_path / "a", tmp_path / "b/dfdc"), (0.5, 0.5))


def test_what_the_persons_do_not_allow_is_said_instead_of_an_interval(tmp_path):
    rows = [[*row[:1], "p0" if row[4] == 0 else row[1], *row[2:]] for row in clips()]
    paths = [
        write_run(tmp_path / name / "predictions.csv", rows, 1.0, seed) for seed, name in enumerate("ab")
    ]
    comparison = compare_runs(paths, (0.5, 0.5))
    overall = comparison["datasets"]["data"]["overall"]
    assert "the real clips are of 1 identity" in overall["intervals"]["reason"]
    assert "two identities of each class" in overall["delong_persons"]["reason"]
    assert 0 < overall["delong"]["p_value"] <= 1
    assert f"{overall['auc_a']:.4f} [-]" in as_table(comparison)
    json.dumps(comparison, allow_nan=False)


def test_a_comparison_says_what_its_intervals_are_over(two_runs):
    assert "resamples of the identities" in as_table(compare_runs(two_runs, (0.5, 0.5)))  # files from before
    kinds = ["identity_is", *("person" if i % 2 else "clip" for i in range(120))]
    new = edited(two_runs[0], lambda rows: [[*row, kind] for row, kind in zip(rows, kinds, strict=True)])
    for pair in ((new, two_runs[1]), (two_runs[1], new)):
        comparison = compare_runs(pair, (0.5, 0.5))
        assert comparison["datasets"]["data"]["overall"]["clustered_by"] == "person+clip"
        table = as_table(comparison)
        assert "| DeLong, persons or single clips | DeLong, clips |" in table
        assert "Not all persons are named: where they are not, each clip counts as a person" in table


def edited(path, change):
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    rows = change(rows) or rows
    other = path.with_name("other.csv")
    with other.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return other


def set_cell(column, value, line=5):
    return lambda rows: rows[line].__setitem__(HEADER.index(column), value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-2], "do not have the same clips: 2 are only in the first, 0 only in the second"),
        (set_cell("clip_id", "data/new"), "1 are only in the first, 1 only in the second"),
        (set_cell("label", "1", line=1), "differ in the label of 1 clips, e.g. of data/000: 0 and 1"),
        (set_cell("identity", "p99", line=1), "differ in the identity of 1 clips"),
        (set_cell("clip_id", "data/000"), "line 6: data/000 occurs twice"),
        (set_cell("logit", "nan"), "line 6: logit is 'nan'"),
        (set_cell("logit", ""), "line 6: logit is ''"),
        (set_cell("label", "0.5"), "line 6: label is '0.5'"),
        (lambda rows: [row[:4] for row in rows], "has no column label, logit"),
        (lambda rows: rows[:3] + [rows[3][:2]] + rows[4:], "line 4: has fewer values"),
        (lambda rows: rows[:1], "has no clips"),
        (lambda rows: [rows[0], *(row for row in rows[1:] if row[4] == "1")], "only in the first"),
    ],
)
def test_predictions_that_do_not_fit_together_are_refused(two_runs, change, message):
    with pytest.raises(DatasetError) as error:
        compare_runs((two_runs[0], edited(two_runs[0], change)), (0.5, 0.5))
    assert message in str(error.value)
    assert "other.csv" in str(error.value)


def test_one_class_is_an_error(two_runs):
    fakes = edited(two_runs[0], lambda rows: [rows[0], *(row for row in rows[1:] if row[4] == "1")])
    with pytest.raises(DatasetError, match=r"other.csv has 80 fake and 0 real clips"):
        compare_runs((fakes, fakes), (0.5, 0.5))


def test_the_command_writes_the_numbers_and_a_table(two_runs, tmp_path, capsys):
    output_dir = tmp_path / "out"
    flags = ["--compare", *map(str, two_runs), "--output_dir", str(output_dir)]
    assert main(flags) == 0
    comparison = json.loads(capsys.readouterr().out)
    assert comparison == json.loads((output_dir / "comparison.json").read_text())
    table = (output_dir / "comparison.md").read_text()
    overall = comparison["datasets"]["data"]["overall"]
    low, high = overall["intervals"]["difference"]
    assert f"{overall['difference']:+.4f} [{low:.4f}, {high:.4f}]" in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert [row.split(" | ")[0] for row in rows[2:]] == [
        "| data", "| data: A", "| data: B", "| data: method lips", "| data: method swap"
    ]  # fmt: skip
    assert len({row.count("|") for row in rows}) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--compare", "a.csv"], "predictions of two runs, got 1"),
        (["--compare", "a.csv", "b.csv", "--compare_thresholds", "0.5", "1"], "between 0 and 1"),
    ],
)
def test_a_wrong_call_is_a_usage_error(flags, message):
    with pytest.raises(UsageError, match=message):
        main(flags)


def test_forged_segments_are_compared_where_both_evaluations_looked_for_them(two_runs, tmp_path):
    persons = {row[0]: row[1] for row in clips()}
    true = {clip_id: [[1.0, 2.0]] * (number % 3 > 0) for number, clip_id in enumerate(persons)}
    for folder, start in (("a", 1.0), ("b", 1.6)):  # overlaps of 1 and of 0.25
        found = {clip_id: {"clip": [[0.9, start, start + 1]] * len(spans)} for clip_id, spans in true.items()}
        assert "localisation" not in compare_runs(two_runs, (0.5, 0.5))["datasets"]["data"]
        (tmp_path / folder / "segments.json").write_text(json.dumps(found))
        (tmp_path / folder / "true_segments.json").write_text(json.dumps({"clip": true}))
    comparison = compare_runs(two_runs, (0.5, 0.5))
    rows = comparison["datasets"]["data"]["localisation"]["clip"]
    assert rows["ap_0.5"] == {"a": 1.0, "b": 0.0, "difference": 1.0, "interval": [1.0, 1.0]}
    assert "| data: clip | ap_0.5 | 1.0000 | 0.0000 | +1.0000 [1.0000, 1.0000] |" in as_table(comparison)
    (tmp_path / "b/segments.json").write_text("[]")
    with pytest.raises(DatasetError, match="is damaged"):
        compare_runs(two_runs, (0.5, 0.5))
