"""test.py --scores, on tables without media."""

import csv
import json
import math
from collections import Counter

import numpy as np
import pytest

from loaders.datasets.fakeavceleb import list_fakeavceleb
from loaders.listing import MetadataConfig
from models.judging.foreign_scores import as_logits, list_metadata, main
from tests.clip_factory import write_fakeavceleb_tree
from tests.trees import TREES
from tests.trees.celebdf import write_celebdf
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty
from utils.clip.files import AUDIO_NAME, LANDMARKS_NAME, VIDEO_NAME
from utils.errors import DatasetError, UsageError
from utils.evaluation.metrics import area_under_roc
from utils.files import names_sha256

LISTED = ("av_deepfake1m", "av_deepfake1m_pp", "deepfake_eval_2024", "idforge", "mavos_dd", "polyglotfake")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_fakeavceleb_tree(tmp_path_factory.mktemp("lists") / "data", num_identities=20, clips=False)


@pytest.fixture
def clips(root):
    return list_fakeavceleb(root, MetadataConfig()).clips


def write_scores(path, clips, value_of, name_of=lambda clip: clip.clip_id, header=("clip_id", "score")):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows((name_of(clip), value_of(index, clip)) for index, clip in enumerate(clips))
    return path


def score(index, clip):
    return repr(clip.label + math.sin(index))


def evaluated(root, path, out, capsys, *flags, higher="fake"):
    words = ["--scores", path, "--data_root", root, "--metadata_only", "--output_dir", out, "--split", "all"]
    assert main([*map(str, words), "--higher_means", higher, *flags]) == 0
    return json.loads(capsys.readouterr().out)


def test_scores_are_judged_without_any_media(root, clips, tmp_path, capsys):
    path = write_scores(tmp_path / "mine.csv", clips, score)
    result = evaluated(root, path, tmp_path / "out", capsys)
    assert result == json.loads((tmp_path / "out/test_metrics.json").read_text())
    labels, values = (
        np.array([c.label for c in clips]),
        np.array([float(score(*p)) for p in enumerate(clips)]),
    )
    assert result["overall"]["auc"] == area_under_roc(labels, values)
    assert (result["overall"]["num_real"], result["overall"]["num_fake"]) == (20, 60)
    low, high = result["intervals"]["overall"]["auc"]
    assert low < result["overall"]["auc"] < high
    for unit in ("clips", "persons"):
        low, high = result["delong"][unit]["interval"]
        assert low < result["overall"]["auc"] < high
    assert result["per_method"].keys() == {"rtvc", "faceswap", "wav2lip"}
    assert len(result["per_stratum"]) == 4
    assert result["per_stratum"]["African/men"]["num_real"] == 5
    assert result["coverage"]["share"] == 1
    assert "auc_if_wrong" not in result["coverage"]
    assert result["run"]["name"] == "mine"
    assert result["ids_sha256"] == names_sha256(clip.clip_id for clip in clips)
    assert "not measured" in result["shortcut_correlations"]["reason"]


def test_polarity_turns_all_numbers_and_must_be_said(root, clips, tmp_path, capsys):
    path = write_scores(tmp_path / "scores.csv", clips, score)
    fake, real = (evaluated(root, path, tmp_path / kind, capsys, higher=kind) for kind in ("fake", "real"))
    assert fake["overall"]["auc"] == pytest.approx(1 - real["overall"]["auc"], abs=1e-12)
    with pytest.raises(UsageError, match="missing --higher_means"):
        main(["--scores", str(path), "--data_root", str(root)])


def test_clips_by_path_and_the_scores_of_a_split(root, clips, tmp_path, capsys):
    """Names as in the original metadata, and a file with more than the test part."""
    path = write_scores(
        tmp_path / "scores.csv", clips[::-1], score,
        lambda clip: f"/x/FakeAVCeleb/{clip.clip_id.removeprefix('fakeavceleb/')}.mp4", ("path", "P_fake"),
    )  # fmt: skip
    flags = ("--score_column", "P_fake", "--split", "test")
    result = evaluated(root, path, tmp_path / "out", capsys, *flags)
    assert result["coverage"]["num_clips"] == 16
    assert result["split_checksum"]
    rows = list(csv.DictReader((tmp_path / "out/predictions.csv").open()))
    assert len(rows) == 16


def test_missing_doubled_and_unknown_clips_are_refused_by_name(root, clips, tmp_path, capsys):
    missing, doubled = clips[10:13], clips[30:32]
    rows = [clip for clip in clips if clip not in missing] + doubled
    path = write_scores(tmp_path / "scores.csv", rows, score)
    path.write_text(path.read_text() + "fakeavceleb/RealVideo-RealAudio/nobody/00000,0.5\n")
    with pytest.raises(DatasetError) as error:
        evaluated(root, path, tmp_path / "out", capsys)
    text = str(error.value)
    assert "3 missing: " in text
    assert "2 doubled: " in text
    assert "1 unknown: fakeavceleb/RealVideo-RealAudio/nobody/00000" in text
    assert all(clip.clip_id in text for clip in (*missing, *doubled))
    assert len(text) < 2000  # of what the command's one line shows
    table = list(csv.DictReader((tmp_path / "out/refused_scores.csv").open()))
    assert [row["problem"] for row in table] == ["missing"] * 3 + ["doubled"] * 2 + ["unknown"]
    assert not (tmp_path / "out/test_metrics.json").exists()


def test_clips_without_a_score_count_against_the_coverage(root, clips, tmp_path, capsys):
    unscored = {clip.clip_id for clip in clips[:2]}
    path = write_scores(
        tmp_path / "scores.csv", clips, lambda i, clip: "" if clip.clip_id in unscored else score(i, clip)
    )
    result = evaluated(root, path, tmp_path / "out", capsys)
    coverage = result["coverage"]
    assert (coverage["num_scored"], coverage["share"]) == (78, 78 / 80)
    assert set(coverage["without_score"]) == unscored
    labels = np.array([clip.label for clip in clips])
    values = np.array([float(score(*pair)) for pair in enumerate(clips)])
    values[:2] = np.where(labels[:2] == 1, -9, 9)
    assert coverage["auc_if_wrong"] == area_under_roc(labels, values)


def test_probabilities_decide_at_one_half(root, clips, tmp_path, capsys):
    path = write_scores(tmp_path / "scores.csv", clips, lambda i, clip: (0.2, 1.0)[clip.label])
    result = evaluated(root, path, tmp_path / "out", capsys, "--score_scale", "prob")
    assert (result["overall"]["auc"], result["overall"]["accuracy"]) == (1, 1)
    values = np.array([0.0, 1e-30, 2e-30, 0.5, 0.9, 1.0])
    logits = as_logits(values, "prob", "fake", path)
    assert (np.diff(logits) > 0).all()  # none becomes equal to another
    assert np.isfinite(logits).all()
    assert (logits > 0).tolist() == [False] * 4 + [True] * 2
    assert (as_logits(values, "prob", "real", path) == -logits).all()


@pytest.mark.parametrize(
    ("value", "flags", "message"),
    [
        ("nan", (), "line 2: score is 'nan'"),
        ("high", (), "line 2: score is 'high'"),
        ("1.5", ("--score_scale", "prob"), "some scores are not in"),
        ("1", ("--score_column", "prob"), "no column prob above it, but clip_id, score"),
        ("", (), "no clip has a score"),
    ],
)
def test_what_is_no_score_is_refused(root, clips, tmp_path, capsys, value, flags, message):
    path = write_scores(tmp_path / "scores.csv", clips, lambda i, clip: value)
    with pytest.raises(DatasetError, match=message):
        evaluated(root, path, tmp_path / "out", capsys, *flags)


def test_two_detectors_are_compared(root, clips, tmp_path, capsys):
    one, other = (
        write_scores(tmp_path / f"{name}.csv", clips, lambda i, clip, k=k: score(i + k, clip))
        for k, name in enumerate(("one", "other"))
    )
    evaluated(root, one, tmp_path / "one", capsys)
    evaluated(root, other, tmp_path / "other", capsys, "--against", str(tmp_path / "one/predictions.csv"))
    comparison = json.loads((tmp_path / "other/comparison.json").read_text())
    assert 0 <= comparison["datasets"]["fakeavceleb"]["overall"]["delong_persons"]["p_value"] <= 1
    assert "| fakeavceleb |" in (tmp_path / "other/comparison.md").read_text()


def test_a_set_without_a_table_is_listed_by_the_names_of_its_videos(tmp_path):
    tree = write_celebdf(tmp_path, EmptyFiles())
    listing = list_metadata("celebdf", tree.source, MetadataConfig())
    assert sum(tree.counts.values()) == len(listing.clips)
    assert not listing.missing
    (tree.source / "Celeb-DF-v2/List_of_testing_videos.txt").unlink()
    with pytest.raises(DatasetError, match=str(tree.source)):
        list_metadata("celebdf", tree.source, MetadataConfig())


@pytest.mark.parametrize("name", LISTED)
def test_a_set_with_lists_needs_no_clips(name, tmp_path):
    """From the raw folder, and from a folder with the lists alone."""
    tree = TREES[name](tmp_path / "raw", EmptyFiles())
    lists = prepare_empty(tree, tmp_path / "lists")
    for file in [path for path in lists.rglob("*") if path.name in (VIDEO_NAME, AUDIO_NAME, LANDMARKS_NAME)]:
        file.unlink()
    for root in (tree.source, lists):
        listing = list_metadata(name, root, MetadataConfig())
        found = Counter((clip.split or "", clip.category, clip.method) for clip in listing.clips)
        assert found == tree.counts
