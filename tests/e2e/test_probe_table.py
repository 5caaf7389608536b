"""The table of probes: one command trains a probe on each backbone of the menu, and writes one page."""

import csv
import json
from pathlib import Path

from models.backbones.menu import BACKBONES
from tests.clip_factory import write_fakeavceleb_tree
from tests.commands import run_command
from tests.feature_factory import write_noise_features

STUDY = Path(__file__).resolve().parents[2] / "models/probe/studies/backbones.json"


def test_a_probe_on_every_backbone_of_the_menu_is_one_command_and_one_page(forked_trials, tmp_path):
    study = json.loads(STUDY.read_text())
    assert [row["features"] for row in study["rows"]] == [[name] for name in BACKBONES]
    (tmp_path / "probes.json").write_text(json.dumps(study | {"test": False}))
    root = write_fakeavceleb_tree(tmp_path / "set", num_identities=6, num_frames=12)
    for number, video in enumerate(sorted(root.rglob("cropped_video.mp4"))):
        is_fake = "RealVideo-RealAudio" not in str(video)
        for name in BACKBONES:
            write_noise_features(video.parent, name, fake=is_fake, seed=number)
    flags = "--epochs 2 --batch_size 8 --num_workers 0 --device cpu --domain_clips 0 --search_jobs 2"
    flags += " --val_fraction 0.34 --test_fraction 0.17"
    where = ("--data_root", root, "--run_dir", tmp_path / "probes")
    result = run_command("train.py", "--search", tmp_path / "probes.json", *where, *flags.split())
    assert result.returncode == 0, result.stderr[-3000:]
    rows = list(csv.DictReader((tmp_path / "probes/search.csv").open()))
    assert len(rows) == len(BACKBONES)
    page = (tmp_path / "probes/search.html").read_text()
    for name in BACKBONES:
        assert name in page
