"""The table of probes: one command trains a probe on each backbone of the menu, and writes one page."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.backbones.menu import BACKBONES
from tests.clip_factory import write_clip_folder, write_fakeavceleb_tree
from tests.commands import ok, run_command
from tests.feature_factory import write_noise_features
from tests.trees import TREES
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty
from utils.clip.generated import MARK_NAME, mark

FLAGS = "--epochs 2 --batch_size 8 --num_workers 0 --device cpu --domain_clips 0 --search_jobs 2".split()
STUDY = Path(__file__).resolve().parents[2] / "models/probe/studies/backbones.json"


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_probe_on_every_backbone_of_the_menu_is_one_command_and_one_page(forked_trials, tmp_path):
    study = json.loads(STUDY.read_text())
    assert [row["features"] for row in study["rows"]] == [[name] for name in BACKBONES]
    (tmp_path / "probes.json").write_text(json.dumps(study | {"test": False}))
    root = write_fakeavceleb_tree(tmp_path / "set", num_identities=6, num_frames=12)
    for number, video in enumerate(sorted(root.rglob("cropped_video.mp4"))):
        is_fake = "RealVideo-RealAudio" not in str(video)
        for name in BACKBONES:
            write_noise_features(video.parent, name, fake=is_fake, seed=number)
    flags = [*FLAGS, "--val_fraction", "0.34", "--test_fraction", "0.17"]
    where = ("--data_root", root, "--run_dir", tmp_path / "probes")
    ok(run_command("train.py", "--search", tmp_path / "probes.json", *where, *flags))
    rows = rows_of(tmp_path / "probes/search.csv")
    assert len(rows) == len(BACKBONES)
    page = (tmp_path / "probes/search.html").read_text()
    for name in BACKBONES:
        assert name in page


TWO = ("mfcc", "efficientface")


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Prepared data sets of three kinds, one of them generated, with features of two backbones."""
    place = tmp_path_factory.mktemp("sets")
    found = {"fakeavceleb": write_fakeavceleb_tree(place / "fakeavceleb", num_identities=8, num_frames=12)}
    for name, options in (("lavdf", {}), ("manifest", {"form": "lists"})):
        tree = TREES[name](place / f"{name}_raw", EmptyFiles(), **options)
        found[name] = prepare_empty(tree, place / name)
        for number, path in enumerate(sorted(found[name].rglob("cropped_video.mp4"))):
            shutil.rmtree(path.parent)
            write_clip_folder(path.parent, num_frames=12, seed=number)
    (found["lavdf"] / MARK_NAME).write_bytes(mark())
    for root in found.values():
        for number, video in enumerate(sorted(root.rglob("cropped_video.mp4"))):
            for backbone in TWO:
                write_noise_features(video.parent, backbone, fake="Fake" in str(video), seed=number)
    return found


def test_a_table_of_probes_and_data_sets_is_one_command_and_goes_on_with_more_sets(
    forked_trials, roots, tmp_path
):
    file, folder = tmp_path / "two.json", tmp_path / "out"
    rows = [{"name": name, "features": [name]} for name in TWO]
    file.write_text(json.dumps({"base": {"model": "probe"}, "rows": rows, "seeds": [1, 2], "test": True}))
    words = ["train.py", "--search", file, "--data_root", roots["fakeavceleb"], "--run_dir", folder, *FLAGS]
    words += ["--val_fraction", "0.25", "--test_fraction", "0.25"]
    ok(run_command(*words))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/**/*") if path.is_file()}
    assert "test_auc_fakeavceleb" in rows_of(folder / "search.csv")[0]
    assert "test_auc_lavdf" not in rows_of(folder / "search.csv")[0]

    more = [f"{name}={roots[name]}" for name in ("lavdf", "manifest")]
    ok(run_command(*words, "--search_test", *more))
    changed = {path.name for path, time_ns in before.items() if path.stat().st_mtime_ns != time_ns}
    assert changed == {"console.log"}
    for row in rows_of(folder / "search.csv"):
        trial = folder / "trials" / row["trial"]
        for name in ("lavdf", "manifest"):
            metrics = json.loads((trial / "test_elsewhere" / name / "test_metrics.json").read_text())
            assert (metrics["dataset"], metrics["split"]) == (name, "test")
            assert float(row[f"test_auc_{name}"]) == metrics["overall"]["auc"]
    first, second = rows_of(folder / "points.csv")
    for name in ("fakeavceleb", "lavdf", "manifest"):
        tests = {row["trial"]: float(row[f"test_auc_{name}"]) for row in rows_of(folder / "search.csv")}
        by_seed = [tests[f"{TWO[1]}_seed_{seed}"] - tests[f"{TWO[0]}_seed_{seed}"] for seed in (1, 2)]
        assert first[f"difference_{name}"] == ""
        assert float(second[f"difference_{name}"]) == pytest.approx(np.mean(by_seed), abs=1e-12)
        assert float(second[f"low_{name}"]) <= np.mean(by_seed) <= float(second[f"high_{name}"])
    page = (folder / "search.html").read_text()
    assert all(f"{name}, test" in page for name in ("fakeavceleb", "lavdf", "manifest"))
    assert "Lavdf: tested on generated clips" in page
    assert "each data set's test split" in page.replace("&#39;", "'")

    # a test that was cut off is made again, without those that were not
    table, lost = (folder / "search.csv").read_bytes(), folder / "trials/mfcc_seed_2/test_elsewhere"
    kept = (lost / "lavdf/test_metrics.json").stat().st_mtime_ns
    shutil.rmtree(lost / "manifest")
    ok(run_command(*words, "--search_test", *more))
    assert (folder / "search.csv").read_bytes() == table
    assert (lost / "lavdf/test_metrics.json").stat().st_mtime_ns == kept


def test_a_data_set_elsewhere_that_cannot_be_tested_fails_its_trials_by_name(forked_trials, roots, tmp_path):
    file, folder = tmp_path / "one.json", tmp_path / "out"
    base = {"model": "probe", "features": ["mfcc"]}
    file.write_text(json.dumps({"base": base, "rows": [{"name": "a"}], "test": True}))
    shutil.copytree(roots["manifest"], tmp_path / "manifest")
    for path in (tmp_path / "manifest").rglob("features/*"):
        path.unlink()
    words = ["train.py", "--search", file, "--data_root", roots["fakeavceleb"], "--run_dir", folder, *FLAGS]
    words += ["--val_fraction", "0.25", "--test_fraction", "0.25"]
    result = run_command(*words, "--search_test", f"manifest={tmp_path / 'manifest'}")
    assert result.returncode == 1
    assert "the test of a failed: error: " in result.stderr
    (row,) = rows_of(folder / "search.csv")
    assert float(row["test_auc_fakeavceleb"]) > 0
    assert "preprocess.extract_features" in (folder / "search.html").read_text()
