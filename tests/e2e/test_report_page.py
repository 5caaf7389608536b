"""report.html, matrix.html and audit.html of a real run, in a real browser that has no network."""

import csv
import html
import json
import re

import numpy as np
import pytest

from tests.browser import Opened
from tests.commands import run_command
from tests.e2e.test_training import SIZE_FLAGS
from tests.trees.media import Media

PAGES = {"report": (36, 6), "matrix": (0, 0), "audit": (0, 0), "video": (4, 3)}  # images and plots


def run(*arguments, expected=(0,)):
    result = run_command(*arguments)
    assert result.returncode in expected, result.stderr
    return result


@pytest.fixture(scope="module")
def pages(prepared_root, tmp_path_factory):
    """{name: path} of the pages of a tiny run that was audited, and of its matrix with two more runs."""
    root = tmp_path_factory.mktemp("pages")
    run_dir = root / "run"
    run("train.py", "--data_root", prepared_root, "--run_dir", run_dir, *SIZE_FLAGS, "--window_s", "0.6",
        "--batch_size", "4", "--num_workers", "0", "--fold", "1/4", "--learning_rate", "3e-3", "--device",
        "cpu", "--epochs", "2")  # fmt: skip
    run("-m", "loaders.audit", "--dataset", "fakeavceleb", "--data_root", prepared_root, "--output_dir",
        run_dir / "audit", "--split_file", run_dir / "splits/fakeavceleb.csv", "--num_workers", "1",
        expected=(0, 1))  # fmt: skip
    run("test.py", "--checkpoint", run_dir / "best.pt", "--data_root", prepared_root, "--num_workers", "0",
        "--device", "cpu")  # fmt: skip
    result = json.loads((run_dir / "test_metrics.json").read_text())
    for fold, auc in (("2/4", 0.4), ("3/4", 0.9)):
        other = json.loads(json.dumps(result))
        other["run"] |= {"name": f"fold {fold}", "fold": fold, "checkpoint_sha256": fold}
        other["overall"]["auc"] = auc
        elsewhere = json.loads(json.dumps(other)) | {"dataset": "kodf"}
        for name, content in (("here", other), ("kodf", elsewhere)):
            file = root / "others" / fold[0] / name / "test_metrics.json"
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(content))
    Media(seed=5).video(root / "clip.mp4", 0)
    run("test.py", "--video", root / "clip.mp4", "--checkpoint", run_dir / "best.pt", "--output_dir",
        root / "verdict", "--lag_frames", "1", "--device", "cpu")  # fmt: skip
    run("test.py", "--matrix", run_dir, root / "others", "--output_dir", root / "matrix")
    return {
        "report": run_dir / "report.html",
        "matrix": root / "matrix" / "matrix.html",
        "audit": run_dir / "audit" / "audit.html",
        "video": root / "verdict" / "report.html",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_is_whole_by_itself_and_as_wide_as_its_window(browser, pages, name, width):
    with Opened(browser, pages[name], width=width) as opened:
        assert opened.errors == []
        assert [url for url in opened.requests if not url.startswith("data:")] == [pages[name].as_uri()]
        sizes = opened.ask("Array.from(document.images, i => [i.complete, i.naturalWidth, i.clientWidth])")
        assert all(complete and natural > 0 and shown > 0 for complete, natural, shown in sizes)
        drawn = opened.ask(
            "Array.from(document.querySelectorAll('svg'), s => {"
            "const r = s.getBoundingClientRect(); return [r.width, r.height, s.children.length]})"
        )
        assert all(min(size) > 0 for size in drawn)
        assert opened.ask("document.documentElement.scrollWidth") <= width
        num_images, num_plots = len(sizes), opened.ask("document.querySelectorAll('svg.plot').length")
        assert (num_images, num_plots) == PAGES[name]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["report", "video"])
def test_no_label_of_a_plot_is_cut_off_or_too_small_to_read(browser, pages, name, width):
    with Opened(browser, pages[name], width=width) as opened:
        outside, smallest = opened.ask(
            "(() => {const outside = []; let smallest = 99;"
            "for (const plot of document.querySelectorAll('svg.plot')) {"
            " const box = plot.getBoundingClientRect();"
            " for (const text of plot.querySelectorAll('text')) {"
            "  const r = text.getBoundingClientRect();"
            "  smallest = Math.min(smallest, r.height);"
            "  if (r.left < box.left - 2 || r.right > box.right + 2 || r.top < box.top - 2"
            "      || r.bottom > box.bottom + 2) outside.push(text.textContent)}}"
            "return [outside, smallest]})()"
        )
        assert outside == []
        assert smallest >= 8


@pytest.mark.slow
def test_plots_follow_light_and_dark(browser, pages):
    backs = []
    for scheme in ("light", "dark"):
        with Opened(browser, pages["report"], scheme=scheme) as opened:
            text, back, inks = opened.ask(
                "(() => {const body = getComputedStyle(document.body);"
                "return [body.color, body.backgroundColor, Array.from(new Set(Array.from("
                "document.querySelectorAll('svg.plot text'), t => getComputedStyle(t).fill)))]})()"
            )
        assert inks == [text]
        luminance = [np.mean([int(part) for part in re.findall(r"\d+", color)[:3]]) for color in (text, back)]
        assert abs(luminance[0] - luminance[1]) > 150
        backs.append(luminance[1])
    assert backs[0] > 200
    assert backs[1] < 60


@pytest.mark.slow
def test_the_report_says_what_the_files_next_to_it_say(pages):
    run_dir, text = pages["report"].parent, pages["report"].read_text()
    result = json.loads((run_dir / "test_metrics.json").read_text())
    assert f"{result['overall']['auc']:.3f}" in text
    low, high = result["intervals"]["overall"]["auc"]
    assert f"({low:.3f} to {high:.3f})" in text
    assert result["split_checksum"] in text
    assert html.escape(result["command"]) in text or result["command"] in text
    rows = list(csv.DictReader((run_dir / "predictions.csv").open()))
    labels = np.array([int(row["label"]) for row in rows])
    logits = np.array([float(row["logit"]) for row in rows])
    threshold = result["decision"]["stored"]["clip"]["threshold"]
    wrongness = np.where(labels == 1, threshold - logits, logits - threshold)
    shown = re.findall(r'<div class="line"><code>(.*?)</code>', text)
    by_wrongness = dict(zip((row["clip_id"] for row in rows), wrongness, strict=True))
    values = [by_wrongness[html.unescape(clip_id)] for clip_id in shown]
    assert len(set(shown)) == len(rows)  # 12 clips: all of them
    assert values == sorted(values, reverse=True)
    table = re.search(r'<table class="confusion">(.*?)</table>', text, re.DOTALL).group(1)
    counts = [int(number) for number in re.findall(r'<td class="number \w+">(\d+)<', table)]
    accused = logits > threshold
    expected = [((labels == truth) & (accused == called)).sum() for truth in (0, 1) for called in (0, 1)]
    assert counts == expected
    audit = json.loads((run_dir / "audit/audit.json").read_text())
    assert all(html.escape(finding["summary"], quote=False) in text for finding in audit["findings"])
    for name in ("roc", "det", "scores", "reliability", "categories", "training"):
        assert (run_dir / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_matrix_puts_folds_together(pages):
    matrix = json.loads(pages["matrix"].with_suffix(".json").read_text())
    own = json.loads((pages["report"].parent / "test_metrics.json").read_text())["overall"]["auc"]
    assert matrix["columns"] == ["fakeavceleb", "kodf"]
    (group,) = matrix["groups"]
    assert [run["fold"] for run in group["runs"]] == ["1/4", "2/4", "3/4"]
    summary = group["summary"]["fakeavceleb"]["auc"]
    assert summary["mean"] == pytest.approx(np.mean([own, 0.4, 0.9]))
    assert summary["std"] == pytest.approx(np.std([own, 0.4, 0.9], ddof=1))
    assert [table["column"] for table in matrix["folds"]] == ["fakeavceleb", "kodf"]
    assert list(matrix["folds"][1]["rows"][0]["cells"]) == ["2/4", "3/4"]
    assert "not tested" in pages["matrix"].read_text()
