import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from loaders.batches.data_config import DataConfig
from loaders.batches.windows import ClipDataset
from tests.clip_factory import NUM_BITS, make_clip, write_clip_folder
from utils.clip.generated import TRAINED
from utils.errors import DatasetError, UsageError
from utils.evaluation.results import over_data_sets
from utils.evaluation.scoring import ClipScores
from utils.report.matrix import build_matrix, describe_run, find_results, main, read_results
from utils.report.page import THUMBNAILS, Evaluated, most_wrong, read_training_curves
from utils.report.plots import Bar, plot_bars, plot_roc

SVG = "{http://www.w3.org/2000/svg}"
CONFIG = {
    "train": {"model": "m", "preset": "p", "dataset": ["a"], "seed": 1, "run_dir": "x", "learning_rate": 0.1},
    "split": {"fold": "", "split_seed": 42},
}


def shown_frame(picture):
    """The number that a synthetic frame shows."""
    columns = picture[4].reshape(NUM_BITS, -1, 3).mean(axis=(1, 2))
    return int(((columns > 120) << np.arange(NUM_BITS)).sum())


@pytest.mark.parametrize(
    "config",
    [DataConfig(window_s=0.6, windows_per_clip=3), DataConfig(window="released", windows_per_clip=1)],
    ids=["seconds", "released"],
)
def test_a_window_is_drawn_where_its_frames_are(tmp_path, config):
    dataset = ClipDataset(
        [make_clip(write_clip_folder(tmp_path / "a", num_frames=70))], config, training=False
    )
    spans = dataset.window_spans_s(0)
    keys = dataset.evaluation_keys()
    assert len(spans) == len(keys)
    for (start, end), key in zip(spans, keys, strict=True):
        video = dataset[key].video.numpy()
        assert shown_frame(video[0]) == round(start * 25)
        assert shown_frame(video[-1]) == round(end * 25) - 1


def test_names_of_methods_are_text_in_a_plot_and_nothing_else(tmp_path):
    name = "$x_$<b onload='1'>&amp;"
    svg = plot_bars(tmp_path / "bars.png", {"per method": [Bar(name, 0.7, (0.6, 0.8), 3)]})
    root = ElementTree.fromstring(svg)
    assert f"{name} (3)" in ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert root.find(f".//{SVG}b") is None
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_many_groups_draws_the_hardest_and_counts_the_others(tmp_path):
    labels = np.array([0, 0, 1, 1])
    groups = {f"g{i}": (labels, np.array([0.0, 1.0, 0.5, 2.0]) + (labels * (i % 3))) for i in range(12)}
    groups |= {
        "all": (labels, np.array([0.0, 1.0, 0.5, 2.0])),
        "hard": (labels, np.array([1.0, 2.0, 0.0, 0.5])),
    }
    svg = plot_roc(tmp_path / "roc.png", groups)
    assert "hard  0.000" in svg
    assert "and 6 easier ones, not drawn" in svg


def test_plots_are_the_same_every_time_and_share_no_name_with_another(tmp_path):
    bars = {"per method": [Bar("a", 0.7, None, 3)]}
    first, again = (plot_bars(tmp_path / "a.png", bars) for _ in range(2))
    assert first == again
    other = plot_bars(tmp_path / "b.png", bars)
    names = [
        {e.get("id") for e in ElementTree.fromstring(svg).iter() if e.get("id")} for svg in (first, other)
    ]
    assert names[0]
    assert not names[0] & names[1]


def test_a_broken_metrics_csv_is_an_error_with_its_path(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,val_auc\n0,0.5\n1,\n")
    np.testing.assert_equal(read_training_curves(path)["val_auc"], [0.5, np.nan])
    for content in ("", "epoch,val_auc\n", "epoch,val_auc\n0,abc\n", "a,b\n1,2\n"):
        path.write_text(content)
        with pytest.raises(DatasetError, match=r"metrics\.csv"):
            read_training_curves(path)


def write_result(folder: Path, *, auc=0.8, dataset="a", checkpoint=b"weights", config=CONFIG, **changes):
    """The result of a checkpoint that lies in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "best.pt").write_bytes(checkpoint)
    overall = {"auc": auc, "eer": 0.2, "num_real": 5, "num_fake": 6}
    overall |= {"accuracy": (auc or 0) - 0.1, "balanced_accuracy": (auc or 0) - 0.2}
    result = {
        "dataset": dataset,
        "split": "test",
        "overall": overall,
        "run": describe_run(folder / "best.pt", {"config": config}),
    }
    (folder / "test_metrics.json").write_text(json.dumps(result | changes))
    return folder


def changed(section, **values):
    return CONFIG | {section: CONFIG[section] | values}


def matrix_of(*folders):
    return build_matrix(read_results(find_results(folders)))


def test_only_runs_that_differ_in_seed_and_fold_share_a_mean(tmp_path):
    write_result(tmp_path / "one", auc=0.8, checkpoint=b"1")
    write_result(tmp_path / "two", auc=0.9, checkpoint=b"2", config=changed("train", seed=2, run_dir="y"))
    write_result(tmp_path / "three", auc=0.1, checkpoint=b"3", config=changed("train", learning_rate=0.2))
    matrix = matrix_of(tmp_path)
    names = sorted(sorted(run["name"] for run in group["runs"]) for group in matrix["groups"])
    assert names == [["one", "two"], ["three"]]
    (summary,) = [group["summary"]["a"]["auc"] for group in matrix["groups"] if group["summary"]]
    assert summary["mean"] == pytest.approx(0.85)
    assert summary["std"] == pytest.approx(0.05 * 2**0.5)
    (summary,) = [group["summary"]["a"] for group in matrix["groups"] if group["summary"]]
    assert summary["accuracy"]["mean"] == pytest.approx(0.75)
    assert summary["balanced_accuracy"]["mean"] == pytest.approx(0.65)
    assert matrix["folds"] == []


def test_a_matrix_says_what_its_intervals_are_over(tmp_path):
    write_result(tmp_path / "old", dataset="a")
    assert matrix_of(tmp_path)["clustered_by"] == "identity"
    for name, kinds in (("one", "person"), ("two", "family")):
        intervals = {"clustered_by": kinds, "overall": {"auc": [0.7, 0.9]}}
        write_result(tmp_path / "new" / name, dataset=name, checkpoint=name.encode(), intervals=intervals)
    assert matrix_of(tmp_path / "new")["clustered_by"] == "person+family"
    write_result(tmp_path / "odd", intervals={"clustered_by": "<b>", "overall": {}})
    with pytest.raises(DatasetError, match="nothing to count"):
        matrix_of(tmp_path / "odd")


def test_a_matrix_says_which_cells_are_of_generated_clips(tmp_path):
    generated = {"caveat": "tested on 3 clips, <i>"}
    write_result(tmp_path / "one", dataset="a", config=changed("split", fold="1/2"), **generated)
    write_result(tmp_path / "again", dataset="a", config=changed("split", fold="1/2"))  # an older result
    write_result(tmp_path / "two", dataset="a", checkpoint=b"2", config=changed("split", fold="2/2"))
    assert main(["--matrix", str(tmp_path), "--output_dir", str(tmp_path)]) == 0
    matrix = json.loads((tmp_path / "matrix.json").read_text())
    runs = [run for group in matrix["groups"] for run in group["runs"]]
    assert [run["cells"]["a"]["caveat"] for run in runs] == [generated["caveat"], ""]
    assert [row["cells"]["1/2"]["caveat"] for row in matrix["folds"][0]["rows"]] == [generated["caveat"]]
    page = (tmp_path / "matrix.html").read_text()
    assert page.count('<span class="caveat">tested on 3 clips, &lt;i&gt;</span>') == 2  # of runs, of folds
    write_result(tmp_path / "odd", dataset="b", caveat=3)
    with pytest.raises(DatasetError, match="caveat is 3"):
        matrix_of(tmp_path / "odd")


def test_folds_of_a_run_of_generated_clips_say_so(tmp_path):
    for fold in ("1/2", "2/2"):
        folder = tmp_path / fold[0]
        write_result(folder, checkpoint=fold.encode(), config=changed("split", fold=fold))
        content = json.loads((folder / "test_metrics.json").read_text())
        content["run"]["generated_sets"] = ["a"]
        (folder / "test_metrics.json").write_text(json.dumps(content | {"caveat": TRAINED}))
    assert main(["--matrix", str(tmp_path), "--output_dir", str(tmp_path)]) == 0
    (table,) = json.loads((tmp_path / "matrix.json").read_text())["folds"]
    assert table["caveat"] == TRAINED
    assert (tmp_path / "matrix.html").read_text().count(TRAINED) == 2  # above the runs, above the folds


def test_several_data_sets_together_say_what_each_says():
    def result(caveat):
        return {
            "overall": {"auc": 0.5, "ap": 0.5, "eer": 0.5, "num_real": 1, "num_fake": 1},
            "caveat": caveat,
        }

    together, table = over_data_sets({"a": result("x"), "b": result(""), "c": result("x"), "d": result("y")})
    assert together["caveat"] == "x; y"
    assert table[-2:] == ["x", "y"]
    assert over_data_sets({"b": result("")})[0]["caveat"] == ""


def test_a_row_is_a_checkpoint_wherever_its_results_lie(tmp_path):
    write_result(tmp_path / "run", dataset="a")
    write_result(tmp_path / "elsewhere", dataset="b")
    write_result(tmp_path / "again", dataset="a")  # the same result twice
    rows = [run for group in matrix_of(tmp_path)["groups"] for run in group["runs"]]
    assert [list(run["cells"]) for run in rows] == [["a", "b"]]


def test_a_result_on_clips_of_one_class_is_left_out_and_named(tmp_path, caplog):
    write_result(tmp_path / "both", dataset="a")
    write_result(tmp_path / "fakes", dataset="b", auc=None)
    (row,) = [run for group in matrix_of(tmp_path)["groups"] for run in group["runs"]]
    assert list(row["cells"]) == ["a"]
    assert "fakes/test_metrics.json: left out, b of fakes has no AUC" in caplog.text


def test_two_different_results_of_one_cell_are_refused(tmp_path):
    write_result(tmp_path / "run", auc=0.8)
    write_result(tmp_path / "trimmed", auc=0.7)
    with pytest.raises(UsageError, match=r"run/test_metrics\.json and .*trimmed/test_metrics\.json"):
        matrix_of(tmp_path)


def test_published_weights_are_a_row_of_their_own(tmp_path):
    write_result(tmp_path / "published", config={}, checkpoint=b"1")
    write_result(tmp_path / "other", config={}, checkpoint=b"2")
    matrix = matrix_of(tmp_path)
    assert sorted(group["title"] for group in matrix["groups"]) == ["other", "published"]


def test_what_is_no_result_is_an_error_with_its_path(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty: no test_metrics\.json"):
        matrix_of(tmp_path / "empty")
    with pytest.raises(UsageError, match="nowhere"):
        matrix_of(tmp_path / "nowhere")
    for content in ("[]", "{", '{"dataset": "a"}', '{"dataset": "a", "run": null}'):
        (tmp_path / "test_metrics.json").write_text(content)
        with pytest.raises(DatasetError, match=r"test_metrics\.json"):
            matrix_of(tmp_path)


def test_a_wrongly_judged_clip_is_shown_without_landmarks_and_sound(tmp_path):
    """Methods that only see need neither."""
    folder = write_clip_folder(tmp_path / "a", num_frames=20)
    for path in (*folder.glob("*.npy"), *folder.glob("*.wav")):
        path.write_bytes(b"nothing")
    clip = make_clip(folder)
    heads = {"video_logits": None, "audio_logits": None, "mean_terms": {}}
    windows = {"num_windows": np.ones(1, int), "window_logits": [np.ones(1)]}
    logits = {"labels": np.zeros(1), "logits": np.ones(1)}
    scores = ClipScores(clip_ids=[clip.clip_id], **logits, **heads, **windows)
    places = {"spans_of": lambda _: [(0.0, 0.6)], "run_dir": tmp_path, "data_root": tmp_path}
    evaluated = Evaluated(result={}, clips=[clip], scores=scores, **places)
    (shown,) = most_wrong(evaluated, threshold=0.0)["wrong"]
    assert (shown["duration"], len(shown["pictures"])) == (20 / 25, THUMBNAILS)
