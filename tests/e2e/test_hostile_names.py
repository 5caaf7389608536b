"""Names that would like to be more than text, on every page, in a real browser; and pages without faces."""

import dataclasses
import json
import re
from fractions import Fraction

import numpy as np
import pytest

from loaders.audit.audit import Audit
from loaders.audit.findings import Finding
from loaders.audit.page import write_html
from loaders.audit.shortcuts import ALL_FAKES, RuleResult
from models.judging.page import write_video_page
from models.judging.verdict import FaceVerdict, Segment, Verdict
from preprocess.clip.all_faces import TrackClip, TrackedVideo
from tests.browser import Opened
from tests.clip_factory import make_clip, write_clip_folder
from tests.commands import run_command
from tests.e2e.test_video import write_checkpoint
from tests.trees.media import Media
from utils.clip.files import AUDIO_NAME, VIDEO_NAME
from utils.evaluation.results import all_metrics
from utils.evaluation.scoring import ClipScores
from utils.report import matrix
from utils.report.page import Evaluated, write_report

POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
NUM_FRAMES = 10


def hostile(word):
    """A name that runs a script or asks for a file if a page takes it for anything but text."""
    return (
        f"{word} <script>window.hits=1</script>\"'><img src='http://127.0.0.1:9/' onerror='window.hits=1'>"
        "</title></style></svg><svg onload='window.hits=1'>{{7*7}} &amp; $x_{2}$ $\\frac{"
    )


def file_name(word):
    """The same as a name that a file can have."""
    return hostile(word).replace("/", "\u2215")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder for the pages, and what they are made from: clips with hostile names, and their scores."""
    root = tmp_path_factory.mktemp("pages") / file_name("folder")
    clips = []
    for index in range(8):
        label = index % 2
        folder = write_clip_folder(
            root / "data" / f"{file_name('clip')} {index}", num_frames=NUM_FRAMES, seed=index
        )
        kind = f" {index // 4}" if label else ""
        clips.append(
            make_clip(
                folder,
                clip_id=f"manifest/{hostile('clip')} {index}",
                label=label,
                video_label=label,
                audio_label=label,
                category=hostile("category") + kind if label else "real",
                method=hostile("method") + kind if label else "real",
                identity=f"manifest/{hostile('identity')} {index}",
                target_id="x",
                dataset="manifest",
            )
        )
    rng = np.random.default_rng(0)
    labels = np.array([clip.label for clip in clips], float)
    logits = rng.normal(labels, 1.5)
    scores = ClipScores(
        clip_ids=[clip.clip_id for clip in clips],
        labels=labels,
        logits=logits,
        video_logits=logits,
        audio_logits=None,
        num_windows=np.ones(8, int),
        window_logits=[np.array([value]) for value in logits],
        mean_terms={},
    )
    return root, clips, scores


def evaluated(made, **changes):
    root, clips, scores = made
    run_dir = root / file_name("checkpoint")
    run_dir.mkdir(exist_ok=True)
    evil = hostile("config")
    (run_dir / "config.json").write_text(json.dumps({"config": {"train": {evil: evil}, evil: {"a": [evil]}}}))
    (run_dir / "metrics.csv").write_text("epoch,train_total,val_auc\n0,1.0,0.5\n1,0.5,0.7\n")
    finding = {"kind": evil, "summary": hostile("finding"), "remedy": hostile("remedy"), "examples": []}
    findings = [finding | {"is_note": note} for note in (False, True)]
    audit = {"dataset": hostile("dataset"), "findings": findings, "split_checksum": "0", "num_clips": 8}
    (run_dir / "audit.json").write_text(json.dumps(audit))
    result = {
        "dataset": hostile("dataset"),
        "split": "test",
        **all_metrics(None, clips, scores, set(), "all"),
        "run": {"name": hostile("checkpoint"), "checkpoint_sha256": "1", "trained_on": [hostile("dataset")],
                "model": hostile("model"), "configuration": hostile("hash"), "fold": "1/2", "seed": 1},
        "checkpoint": hostile("checkpoint"),
        "split_checksum": "1",
        "data": {hostile("field"): hostile("value")},
        "command": f"test.py {hostile('command')}",
        "environment": {"commit": hostile("commit"), "device": hostile("device"), "python": "3",
                        "versions": {hostile("package"): "1"}},
        "shortcuts": [{"change": hostile("change"), "auc": 0.5, "auc_difference": 0.0, "eer": 0.5}],
        "robustness": {"mean_auc": 0.5, "worst_auc": 0.5,
                       "per_kind": {hostile("kind"): {"auc": {"0": 0.5}, "mean_auc": 0.5, "worst_auc": 0.5}}},
    }  # fmt: skip
    return Evaluated(
        result=result,
        clips=clips,
        scores=scores,
        spans_of=lambda clip: [(0.0, 0.4)],
        run_dir=run_dir,
        data_root=root / "data",
        **changes,
    )


def video_page(made, folder, **options):
    root, clips, _ = made
    folder.mkdir()
    track = TrackClip(
        folder=clips[0].folder,
        first_frame=0,
        num_frames=NUM_FRAMES,
        face_boxes=np.zeros((NUM_FRAMES, 3)),
        has_face=np.ones(NUM_FRAMES, bool),
    )
    face = FaceVerdict(
        verdict="fake", prob=0.9, logit=2.0, modalities={"video": "fake"}, video_prob=0.9, audio_prob=0.1,
        off_domain=[hostile("domain")], first_frame=0, num_frames=NUM_FRAMES, num_frames_with_face=NUM_FRAMES,
        face_height_px=80.0, num_windows=1, segments=[Segment(start_s=0.0, end_s=0.4, mean_prob=0.9)],
        lag_curve={"delay_s": [-0.1, 0.0, 0.1], "logit": [0.0, 1.0, 0.0]}, regions={"mouth": 0.5},
        frame_probs=np.full(NUM_FRAMES, 0.9), frame_logits=np.full(NUM_FRAMES, 2.0),
        window_starts=[0], window_logits=np.full(1, 2.0), saturated={},
    )  # fmt: skip
    verdict = Verdict(
        video=f"{file_name('video')}.mp4", verdict="fake", prob=0.9, modalities=["video"],
        notes=[hostile("note")], fps=25.0, num_frames=NUM_FRAMES, duration_s=0.4, width=64, height=64,
        threshold=0.5, threshold_logit=0.0, temperature=1.0, faces=[face], checkpoint=hostile("checkpoint"),
    )  # fmt: skip
    tracked = TrackedVideo(
        fps=Fraction(25), num_frames=NUM_FRAMES, width=64, height=64, silent=False,
        sound=clips[0].folder / AUDIO_NAME, tracks=[track],
    )  # fmt: skip
    write_video_page(folder, verdict, tracked, **options)
    return folder / "report.html"


@pytest.fixture(scope="module")
def pages(made):
    """{name: (path, words whose hostile names must be readable on it)}."""
    root = made[0]
    report = root / "report"
    report.mkdir()
    write_report(report, content := evaluated(made))
    results = root / "results"
    for fold in ("1/2", "2/2"):
        result = json.loads(json.dumps(content.result))
        result["run"] |= {"fold": fold, "checkpoint_sha256": fold, "configuration": "same"}
        result["caveat"] = hostile("caveat")
        place = results / f"{file_name('fold')} {fold[0]}" / "test_metrics.json"
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps(result))
    matrix.main(["--matrix", str(results), "--output_dir", str(root / "matrix")])
    rules = [
        RuleResult(
            rule="duration", group=group, state="found", num_fake=4, num_real=4, auc=0.9, low=0.8, high=1.0
        )
        for group in (ALL_FAKES, hostile("category"))
    ]
    finding = Finding(
        kind=hostile("kind"), summary=hostile("finding"), remedy="none", examples=[hostile("clip")]
    )
    note = dataclasses.replace(finding, is_note=True)
    audit = Audit([finding, note], rules, {"train": {"real": 4, hostile("category"): 4}}, 8, {"leaks_s": 1.0})
    about = {"dataset": hostile("dataset"), "caveat": hostile("caveat"), "num_clips": 8,
             "num_missing": 1, "num_excluded": 1, "split_checksum": "8" * 64,
             "command": f"audit {hostile('command')}"}  # fmt: skip
    write_html(root / "audit.html", audit, about)
    return {
        "report": (
            report / "report.html",
            ("clip", "method", "category", "dataset", "checkpoint", "config", "finding"),
        ),
        "matrix": (root / "matrix/matrix.html", ("dataset", "checkpoint", "model", "caveat")),
        "audit": (root / "audit.html", ("clip", "category", "dataset", "command", "finding")),
        "video": (video_page(made, root / "video"), ("checkpoint", "note", "domain")),
    }


def look(opened):
    """(did anything run, elements and attributes that no template has, all text)."""
    return (
        opened.ask("window.hits ?? null"),
        opened.ask(
            "Array.from(document.querySelectorAll('*')).filter(e => "
            "['SCRIPT', 'IFRAME', 'OBJECT', 'EMBED', 'FORM', 'BASE'].includes(e.tagName.toUpperCase())"
            " || e.getAttributeNames().some(name => name.toLowerCase().startsWith('on'))"
            " || (e.tagName == 'IMG' && !e.src.startsWith('data:image/jpeg'))"
            " || (e.tagName == 'A')).map(e => e.outerHTML)"
        ),
        opened.ask("document.documentElement.textContent"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("with_policy", [True, False])
@pytest.mark.parametrize("name", ["report", "matrix", "audit", "video"])
def test_a_hostile_name_is_text_on_every_page(browser, pages, tmp_path, name, with_policy):
    path, words = pages[name]
    content = path.read_text(encoding="utf-8")
    assert POLICY.search(content)
    if not with_policy:  # escaping alone
        path = tmp_path / f"{file_name('page')}.html"
        path.write_text(POLICY.sub("", content), encoding="utf-8")
    with Opened(browser, path) as opened:
        hits, injected, text = look(opened)
        assert opened.errors == []
        assert [url for url in opened.requests if not url.startswith("data:")] == [path.as_uri()]
    assert hits is None
    assert injected == []
    for word in words:
        assert hostile(word) in text
    if name == "video":
        assert file_name("video") in text


@pytest.mark.slow
def test_what_the_tests_above_would_see(browser, pages, tmp_path):
    """A page that does not escape: the script runs, unless the policy forbids it."""
    content = pages["audit"][0].read_text(encoding="utf-8")
    leaky = content.replace("<h1>", f"<h1>{hostile('clip')}")
    for page, expected in ((leaky, None), (POLICY.sub("", leaky), 1)):
        (tmp_path / "page.html").write_text(page, encoding="utf-8")
        with Opened(browser, tmp_path / "page.html") as opened:
            hits, injected, _ = look(opened)
            outside = [url for url in opened.requests if url.startswith("http:")]
        assert hits == expected
        assert injected
        assert outside
        assert bool(opened.blocked) != bool(expected)


def test_pages_can_be_made_without_faces(made, tmp_path):
    root = made[0]
    for name in ("with", "without"):
        (root / name).mkdir()
    write_report(root / "without", evaluated(made, no_thumbnails=True))
    video_page(made, root / "video_without", no_thumbnails=True)
    write_report(root / "with", evaluated(made))
    pages = {
        folder: (root / folder / "report.html").read_text() for folder in ("with", "without", "video_without")
    }
    assert pages["with"].count("data:image/jpeg") == 24
    for name in ("without", "video_without"):
        assert "<img" not in pages[name]
        assert "data:image" not in pages[name]
    assert "--no_thumbnails" in pages["without"]
    assert hostile("clip").partition(" ")[0] in pages["without"]
    assert VIDEO_NAME not in pages["without"]


@pytest.mark.slow
def test_a_judged_video_shows_no_face_without_thumbnails(tmp_path):
    write_checkpoint(tmp_path / "best.pt")
    Media(seed=5).video(tmp_path / "clip.mp4", 0)
    result = run_command(
        "test.py", "--video", tmp_path / "clip.mp4", "--checkpoint", tmp_path / "best.pt", "--output_dir",
        tmp_path / "out", "--lag_frames", "0", "--device", "cpu", "--no_thumbnails", "--annotate", "false",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "out/verdict.json").read_text())["faces"]
    assert "data:image" not in (tmp_path / "out/report.html").read_text()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"verdict.json", "report.html", "timeline.png", "regions_1.png"}  # the PNGs are plots
