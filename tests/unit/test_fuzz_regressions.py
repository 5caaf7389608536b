"""What other hostile files once did: each was a crash, a hang or a lie, and is now a reason."""

import csv
import json
import re
import shutil
import sqlite3
import sys
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loaders.audit.contents import unknown_checksums
from loaders.audit.facts import measure_clip
from loaders.batches.data_config import DataConfig
from loaders.batches.windows import ClipDataset
from loaders.datasets.metadata import read_rows
from preprocess.verify import check_clip
from preprocess.work.progress import failures_csv
from tests.clip_factory import make_clip
from tests.fuzz import checkpoints, media
from tests.fuzz import landmarks as prepared
from tests.fuzz.cases import REFUSED
from tests.trees.prepared import touch_clip
from utils.clip.files import open_landmarks, read_clip_info
from utils.clip.frames import read_frames
from utils.clip.sound import read_waveform
from utils.config import opt
from utils.errors import CheckpointError, ClipError, DatasetError, FrameworkError, UsageError, run_command
from utils.evaluation.decision import Decision, HeadDecision
from utils.evaluation.results import write_predictions
from utils.evaluation.scoring import ClipScores
from utils.media.times import read_video_times
from utils.media.video import iterate_pictures
from utils.names import one_line, readable
from utils.report.compare import read_predictions
from utils.report.matrix import find_results, read_results
from utils.report.page import read_audit, read_training_curves
from utils.report.pages import TEMPLATES, write_page
from utils.report.plots import Bar, plot_bars, plot_roc
from utils.run.config_file import read_run_config, require_same

SVG = "{http://www.w3.org/2000/svg}"
DEEP = b"[" * 100_000 + b"]" * 100_000
FORMULAS = (
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1",
    "@SUM(A1)",
    '=HYPERLINK("http://x/","y")',
    '"quoted",\'s',
    "a,b;c",
)


# --- prepared clips


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A clip folder and a pack in which nothing is wrong; do not write into them."""
    base = tmp_path_factory.mktemp("sound")
    prepared.build(base)
    return base


@pytest.mark.parametrize("name", prepared.NPY)
def test_landmarks_are_an_array_or_a_reason(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    folder = touch_clip(tmp_path / "clip")
    (folder / "landmarks.npy").write_bytes(prepared.NPY[name]())
    try:
        array = open_landmarks(folder)
    except ClipError as error:
        assert "landmarks.npy" in str(error)  # noqa: PT017 (either is right)
    else:
        assert array.shape[1:] == (478, 2)
        assert array.dtype.kind == "f"
    assert not list(tmp_path.glob("*_RAN"))


@pytest.mark.parametrize(
    "name", sorted(prepared.INFO.keys() - {"an unknown field", "more frames than there are"})
)
def test_a_clip_json_of_wrong_values_is_refused(tmp_path, sound, name):
    folder = Path(shutil.copytree(sound / "clip", tmp_path / "clip"))
    path = folder / "clip.json"
    assert read_clip_info(folder).num_frames == prepared.NUM_FRAMES
    path.write_text(json.dumps(json.loads(path.read_text()) | prepared.INFO[name]))
    with pytest.raises(ClipError, match=r"clip\.json"):
        read_clip_info(folder)
    with pytest.raises(ClipError, match=r"clip\.json"):
        measure_clip(make_clip(folder))


@pytest.mark.parametrize("name", ["cropped_video.mp4", "cropped_video.wav", "landmarks.npy"])
def test_a_folder_where_a_clip_has_a_file_is_a_problem_of_that_clip(tmp_path, sound, name):
    clips = {}
    for clip_id in ("one", "two"):
        folder = Path(shutil.copytree(sound / "clip", tmp_path / clip_id))
        (folder / name).unlink()
        (folder / name).mkdir()
        clips[clip_id] = make_clip(folder, clip_id=clip_id)
    problems = [reason for path, reason in check_clip(tmp_path / "one", deep=True) if path.name == name]
    assert "cannot be read: Is a directory; prepare the clip again" in problems
    for info in tmp_path.glob("*/clip.json"):
        info.unlink()
    found = unknown_checksums(list(clips.values()), {"one": "train", "two": "test"}, dict.fromkeys(clips, {}))
    kind = {"cropped_video.mp4": "picture", "cropped_video.wav": "sound"}.get(name)
    assert kind not in {kind for _, kind, _ in found}


@pytest.mark.parametrize("name", prepared.PACKS)
def test_an_index_of_a_pack_that_is_none_is_refused(tmp_path, sound, name):
    shutil.copytree(sound / "pack", tmp_path / "pack")
    database = sqlite3.connect(tmp_path / "pack" / "pack.sqlite")
    database.executescript(prepared.PACKS[name])
    database.close()
    dataset = ClipDataset([make_clip(tmp_path / "pack/a/clip")], DataConfig(window_s=0.4), training=False)
    with pytest.raises((DatasetError, ClipError), match="pack"):
        dataset[dataset.evaluation_keys()[0]]


# --- configurations, decisions, results


CONFIG = {"config": {"train": {"seed": 1}}}


@pytest.mark.parametrize(
    "content",
    [DEEP, b"[]", b'{"config": 1}', b'{"config": {"train": 7}}', b"\xff", b'{"config": {"a": "\\ud800"}}'],
)
def test_a_config_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"config\.json"):
        read_run_config(tmp_path / "config.json")


def test_a_section_that_a_run_did_not_have_is_a_difference():
    with pytest.raises(UsageError, match="--seed was None, is 1"):
        require_same({}, {"train": {"seed": 1}})


@pytest.mark.parametrize(
    "value", [10**400, -(10**400), float("nan"), float("inf"), "x" * 10**6, [[]], "a\x00b", "\ud800"]
)
@pytest.mark.parametrize("kind", ["int", "float", "str", "Path"])
def test_a_value_that_is_none_of_its_type_is_a_usage_error(value, kind):
    import argparse
    import dataclasses

    from utils.config import from_args

    kinds = {"int": int, "float": float, "str": str, "Path": Path}
    if kind in {"str", "Path"} and value == "x" * 10**6:
        pytest.skip("it is text")
    config = dataclasses.make_dataclass(
        "Config", [("field", kinds[kind], opt(kinds[kind](), "a value"))], frozen=True, kw_only=True
    )
    with pytest.raises(UsageError, match="field must"):
        from_args(config, argparse.Namespace(), ("a file", {"field": value}))


@pytest.mark.parametrize("value", [10**400, float("inf"), "1", None, True])
def test_a_decision_holds_numbers(value):
    head = HeadDecision(
        temperature=1.0, threshold=0.0, acquittal_threshold=0.0, num_reals=1, num_fakes=1,
        num_reals_accused=0, num_fakes_acquitted=0, false_positive_bound=1.0, false_negative_bound=1.0,
    )  # fmt: skip
    plain = Decision(rate=0.01, clip=head).as_plain()
    plain["clip"]["threshold"] = value
    with pytest.raises(CheckpointError, match="instead of a number"):
        Decision.from_plain(plain)


RUN = {"name": "a", "checkpoint_sha256": "0", "configuration": None}
RESULT = {
    "dataset": "a",
    "split": "test",
    "overall": {"auc": 0.5, "eer": 0.5, "num_real": 1, "num_fake": 1},
    "run": RUN,
}


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": ["a"]}, {"dataset": 7}, {"split": None}, {"run": [1]}, {"run": RUN | {"name": {}}},
        {"run": RUN | {"seed": [1]}}, {"run": RUN | {"fold": 3}}, {"run": RUN | {"trained_on": [7]}},
        {"overall": {"auc": 10**400}}, {"overall": []}, {"intervals": {"overall": {"auc": [1]}}},
        {"intervals": []},
    ],
)  # fmt: skip
def test_a_result_of_wrong_types_is_refused(tmp_path, change):
    (tmp_path / "test_metrics.json").write_text(json.dumps(RESULT | change))
    with pytest.raises(DatasetError, match=r"test_metrics\.json"):
        read_results(find_results([tmp_path]))


def test_files_beside_a_checkpoint_that_are_none_are_refused(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(b"epoch\n\xff\xfe\n")
    with pytest.raises(DatasetError, match=r"metrics\.csv"):
        read_training_curves(tmp_path / "metrics.csv")
    for content in (
        DEEP,
        b'{"dataset": "a", "findings": [{"is_note": false}], "split_checksum": "", "num_clips": 1}',
    ):
        (tmp_path / "audit.json").write_bytes(content)
        with pytest.raises(DatasetError, match=r"audit\.json"):
            read_audit([tmp_path], "a", "0")


def test_one_long_value_does_not_make_a_column_of_long_ones(tmp_path):
    head = "clip_id,identity,category,method,label,logit\n"
    (tmp_path / "predictions.csv").write_text(head + "a,b,c,d,0,1\n" + f"e,f,{'g' * 100_000},h,1,2\n")
    with pytest.raises(DatasetError, match="line 3"):
        read_predictions(tmp_path / "predictions.csv")


# --- what is written for people


def test_an_error_is_one_line_and_no_order_for_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x"])

    def main():
        raise ClipError("a\x1b[2J\nerror: b", "is\x07 \ud800 bad" + "x" * 10**6)

    with pytest.raises(SystemExit):
        run_command(main)
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert len(text) < 2100
    assert text.rstrip("\n").isprintable()
    assert text.encode()


@pytest.mark.parametrize(
    "name", ["_x", "a\x00b", "a\x1bb", "\ud800", "\ufffe", "#1d2329", "$x_{$", "x" * 10**5, "a\nb", ""]
)
def test_a_plot_takes_any_name(tmp_path, name):
    labels, logits = np.array([0, 1, 0, 1]), np.array([0.0, 1.0, 2.0, 0.5])
    for svg in (
        plot_roc(tmp_path / "roc.png", {"all": (labels, logits), name: (labels, logits)}),
        plot_bars(tmp_path / "bars.png", {"per method": [Bar(name, 0.7, None, 3)]}),
    ):
        texts = ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
        shown = one_line(name, 36)
        assert any(shown in text and (text.strip("\u200b").startswith(shown)) for text in texts)
    assert max(map(len, texts)) < 60


def test_a_page_takes_any_name(tmp_path):
    (tmp_path / "page.html.j2").write_text(
        '{% extends "page.html" %}{% block body %}<p title="{{ name }}">{{ name }}</p>{% endblock %}'
    )
    name = "a\x00\x1b\ud800\ufffe\u202eb\" onclick='x' <b>"
    write_page(tmp_path / "page.html", tmp_path / "page.html.j2", name=name)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "a\ufffd\ufffd\ufffd\ufffd\ufffdb&#34; onclick=&#39;x&#39; &lt;b&gt;" in text
    assert TEMPLATES.is_dir()


@given(st.text())
def test_what_is_shown_can_be_written(text):
    assert readable(text).encode() is not None
    assert one_line(text, 50).encode() is not None
    assert len(one_line(text, 50)) <= 50
    assert not set(one_line(text)) & set("\n\r\x00\x1b\u202e")


# names and kinds as metadata may hold them, once what no file can hold is refused
TEXT = st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp", "Cn")), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXT | st.sampled_from(FORMULAS), min_size=2, max_size=8, unique=True))
def test_predictions_say_exactly_what_a_data_set_says(tmp_path, names):
    """A cell that a spreadsheet would take for a formula stays as it is: the files are data, and ids are
    compared letter by letter."""
    clips = [
        make_clip(
            tmp_path,
            clip_id=f"manifest/{name}",
            identity=f"manifest/{name}",
            method=name,
            category=name,
            label=i % 2,
        )
        for i, name in enumerate(names)
    ]
    scores = ClipScores(
        clip_ids=[clip.clip_id for clip in clips],
        labels=np.array([float(clip.label) for clip in clips]),
        logits=np.linspace(-1, 1, len(clips)),
        video_logits=None,
        audio_logits=None,
        num_windows=np.ones(len(clips), int),
        window_logits=[np.zeros(1)] * len(clips),
        mean_terms={},
    )
    write_predictions(tmp_path / "predictions.csv", clips, scores, set())
    found = read_predictions(tmp_path / "predictions.csv")
    order = sorted(range(len(names)), key=lambda i: clips[i].clip_id)
    assert found.clip_ids.tolist() == [clips[i].clip_id for i in order]
    for column in ("method", "category"):
        assert found.text[column].tolist() == [names[i] for i in order]


@pytest.mark.parametrize("name", FORMULAS)
def test_failures_say_exactly_which_video(tmp_path, name):
    path = tmp_path / "failures.csv"
    path.write_bytes(failures_csv([(f"{name}.mp4", "=1+1 is no reason")]))
    ((_, row),) = read_rows(path, ("path", "reason"))
    assert row == {"path": f"{name}.mp4", "reason": "=1+1 is no reason"}
    with path.open(newline="") as file:
        assert next(csv.DictReader(file))["path"] == f"{name}.mp4"


@pytest.mark.parametrize("kind", ["landmarks", "metadata", "media", "checkpoints"])
def test_every_recipe_has_its_turn(kind):
    import importlib

    from tests.fuzz.cases import Case, kind_of, numbers_of

    recipes = importlib.import_module(f"tests.fuzz.{kind}").RECIPES
    numbers = numbers_of(len(recipes), [kind])
    assert all(kind_of(number) == kind for number in numbers)
    found = [Case(3, number).recipe(recipes) for number in numbers]
    assert len({id(recipe) for recipe in found}) == len(recipes)


def test_our_errors_are_one_family():
    assert all(
        issubclass(kind, FrameworkError) for kind in (ClipError, DatasetError, CheckpointError, UsageError)
    )


# --- checkpoints; what is marked was found and is not yet mended


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with a sound best.pt, bare.pth, model.safetensors and config.json."""
    base = tmp_path_factory.mktemp("checkpoints")
    checkpoints.build(base)
    return base


# name of a change -> where it comes through
REFUSED_CHANGES = [name for name, (_, expected) in checkpoints.CHANGES.items() if expected == REFUSED]


@pytest.mark.parametrize("name", REFUSED_CHANGES)
def test_a_checkpoint_that_is_not_what_it_should_be_is_refused(checkpoint, tmp_path, name):
    (tmp_path / "case").mkdir()
    change, _ = checkpoints.CHANGES[name]
    checkpoints.changed(change)(np.random.default_rng(0), checkpoint, tmp_path / "case")
    assert re.search(r"(Checkpoint|Usage)Error: .", checkpoints.exercise(tmp_path / "case", tmp_path))


@pytest.mark.parametrize("name", [name for name in checkpoints.OTHER if "zip of zeros" not in name])
def test_no_code_in_a_checkpoint_runs(checkpoint, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best.pt").write_bytes(checkpoints.OTHER[name]())
    assert re.match("(Checkpoint|Code)Error: ", checkpoints.exercise(tmp_path, tmp_path))


@pytest.mark.parametrize("name", checkpoints.SAFETENSORS)
def test_a_damaged_safetensors_file_is_refused(tmp_path, name):
    (tmp_path / "model.safetensors").write_bytes(checkpoints.SAFETENSORS[name]())
    assert checkpoints.exercise(tmp_path, tmp_path).startswith("CheckpointError: ")


@pytest.mark.parametrize("seconds", [10**6, 10**9])
def test_frames_that_are_days_apart_have_no_frame_rate(tmp_path, seconds):
    write = media.times([0, seconds], Fraction(1))
    write(np.random.default_rng(0), tmp_path, tmp_path)
    with pytest.raises(ClipError, match="frame"):
        read_video_times(tmp_path / "clip.mkv")


def test_a_sound_of_one_sample_a_second_is_no_sound(tmp_path):
    (tmp_path / "cropped_video.wav").write_bytes(prepared.wav_bytes(rate=1, frames=60))
    with pytest.raises(ClipError, match=r"cropped_video\.wav"):
        read_waveform(tmp_path / "cropped_video.wav", 48_000)


@pytest.fixture
def unknown_codec(tmp_path):
    """An AVI whose pictures are of a codec that nobody knows."""
    path = media.write(tmp_path / "clip.avi")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"\x01\x02\x03\x04"))
    return path


def test_a_crop_of_an_unknown_codec_is_refused(unknown_codec):
    with pytest.raises(ClipError, match="known codec"):
        read_frames(unknown_codec, np.array([0]))


def test_a_video_of_an_unknown_codec_is_refused(unknown_codec):
    with pytest.raises(ClipError):
        next(iterate_pictures(unknown_codec))
