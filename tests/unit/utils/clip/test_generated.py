"""The mark of generated clips, from the raw set of preprocess.demo to listings, checkpoints and plots."""

import functools
import json

import cv2
import pytest
import torch

from loaders import DATASETS
from loaders.listing import ListingConfig
from preprocess.pack import PackConfig, Tree, copy_metadata
from preprocess.work.batch import InputConfig, WorkConfig, find_jobs, run_batch
from preprocess.work.limits import LimitConfig
from tests.trees import TREES
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty, touch_clip
from utils.checkpoint.export import write_export
from utils.checkpoint.files import load_checkpoint, save_checkpoint
from utils.clip.generated import (
    MANIFEST_NAME,
    MARK_NAME,
    TRAINED,
    caveat_of,
    caveat_of_clips,
    is_demo_video,
    mark,
)
from utils.errors import CheckpointError
from utils.files import file_sha256
from utils.report.pages import new_figure, save_plot, stamped


@pytest.mark.parametrize("place", ["raw", "raw/RealVideo-RealAudio"])
@pytest.mark.parametrize("name", [MANIFEST_NAME, MARK_NAME, None])
def test_what_is_prepared_from_a_generated_set_is_marked(tmp_path, place, name):
    raw, output = tmp_path / "raw", tmp_path / "out"
    (raw / "RealVideo-RealAudio").mkdir(parents=True)
    (raw / "RealVideo-RealAudio/a.mp4").touch()
    if name:
        (raw / name).write_text("{}")
    batch = find_jobs(InputConfig(input=str(tmp_path / place), output=str(output)))
    for _ in range(2):  # called again, nothing changes
        run_batch(batch, lambda job: "done", WorkConfig(num_workers=1), LimitConfig(), run=_at_once)
        assert [path.name for path in output.iterdir() if path.is_file()] == ([MARK_NAME] if name else [])
    if name:
        assert (output / MARK_NAME).read_bytes() == mark()


def _at_once(jobs, do, *_):
    yield from ((job, do(job), "") for job in jobs)


@pytest.mark.parametrize("dataset", ["fakeavceleb", "manifest", "deepfaketimit"])
def test_a_listing_knows_the_mark_at_its_root(tmp_path, dataset):
    root = prepare_empty(TREES[dataset](tmp_path / "raw", EmptyFiles()), tmp_path / "prepared")
    list_clips = functools.partial(DATASETS[dataset], root, ListingConfig())
    listing = list_clips()
    assert (listing.generated, listing.caveat("audited")) == (frozenset(), "")
    (root / MARK_NAME).write_bytes(mark())
    listing = list_clips()
    assert listing.generated == {clip.clip_id for clip in listing.clips}
    assert listing.caveat("audited") == "audited on generated clips: says nothing about real videos"
    # in any folder above clips
    (root / MARK_NAME).rename(listing.clips[0].folder.parent / MARK_NAME)
    assert listing.clips[0].clip_id in list_clips().generated


def test_a_mark_below_the_root_counts_for_the_clips_below_it_only(tmp_path):
    rows = ["path,label,identity"]
    for name in ("own/a", "own/b", "demo/c"):
        touch_clip(tmp_path / name)
        rows.append(f"{name}.mp4,{int(name == 'own/b')},{name[-1]}")
    (tmp_path / "demo" / MARK_NAME).write_bytes(mark())
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    listing = DATASETS["manifest"](tmp_path, ListingConfig())
    assert listing.generated == {"manifest/demo/c"}
    few = "audited on 3 clips, 1 of them generated: these say nothing about real videos"
    assert listing.caveat("audited") == few
    assert listing.num_generated([clip for clip in listing.clips if "own" in clip.clip_id]) == 0
    (tmp_path / "manifest.csv").write_text("\n".join(rows[:-1]) + "\n")
    listing = DATASETS["manifest"](tmp_path, ListingConfig())
    assert (listing.generated, listing.caveat("audited")) == (frozenset(), "")


@pytest.mark.parametrize("how", ["above", "root is a link", "clip is a link"])
def test_a_mark_above_the_root_or_where_links_lead_counts(tmp_path, how):
    part, root = tmp_path / "marked/part", tmp_path / "root"
    touch_clip(part / "a")
    (part.parent / MARK_NAME).write_bytes(mark())
    if how == "above":
        root = part
    elif how == "root is a link":
        root.symlink_to(part)
    else:
        root.mkdir()
        (root / "a").symlink_to(part / "a")
    (root / "manifest.csv").write_text("path,label,identity\na.mp4,1,x\n")
    listing = DATASETS["manifest"](root, ListingConfig(allow_links=how == "clip is a link"))
    assert listing.generated == {"manifest/a"}


def test_a_pack_of_a_part_of_a_marked_set_is_marked(tmp_path):
    part, packed = tmp_path / "marked/part", tmp_path / "packed"
    part.mkdir(parents=True)
    for is_marked in (False, True):
        copy_metadata(Tree(clips=["a"], metadata=[]), PackConfig(data_root=part, output=packed))
        assert (packed / MARK_NAME).is_file() == is_marked
        (part.parent / MARK_NAME).touch()


def test_a_demo_video_is_known_by_its_bytes_in_its_place(tmp_path):
    (tmp_path / "set/real").mkdir(parents=True)
    own, foreign = tmp_path / "set/real/a.mp4", tmp_path / "set/real/b.mp4"
    for video in (own, foreign):
        video.write_bytes(video.name.encode())
    assert not is_demo_video(own)
    manifest = tmp_path / "set" / MANIFEST_NAME
    manifest.write_text(json.dumps({"files": {"real/a.mp4": file_sha256(own)}}))
    assert is_demo_video(own)
    assert not is_demo_video(foreign)
    own.write_bytes(b"a video of somebody")
    assert not is_demo_video(own)
    for broken in ("{", "[]", '{"files": 3}'):
        manifest.write_text(broken)
        assert not is_demo_video(own)


def test_training_clips_count_before_test_clips():
    assert caveat_of(["kodf"]) == caveat_of(["kodf"], 2, 3) == TRAINED
    assert caveat_of(None, 3, 3) == caveat_of([], 3, 3) == TRAINED.replace("trained", "tested")
    assert caveat_of(None, 2, 3) == caveat_of_clips("tested", 2, 3)
    assert caveat_of(None, 0, 3) == caveat_of([]) == ""


def test_an_export_keeps_the_mark_and_its_card_says_so(tmp_path):
    train = {"model": "m", "preset": "p", "dataset": ["kodf"], "seed": 0, "select_by": "val_auc"}
    sections = {"train": train, "model": {}, "data": {"window_s": 1.0, "video_fps": 25.0}}
    state = {"model": {"a": torch.zeros(1)}, "config": sections, "split_checksums": {}}
    state["landmark_backends"] = {"solutions": 2}
    for generated in (["kodf"], [], None):
        extra = {} if generated is None else {"generated_sets": generated}  # None: an old checkpoint
        save_checkpoint(tmp_path / "best.pt", state | extra)
        content = load_checkpoint(tmp_path / "best.pt")
        card = write_export(content, tmp_path / "best.pt", tmp_path / "model.safetensors")
        assert load_checkpoint(tmp_path / "model.safetensors").get("generated_sets") == generated
        assert load_checkpoint(tmp_path / "model.safetensors")["landmark_backends"] == {"solutions": 2}
        assert ("says nothing about real videos" in card.read_text()) == bool(generated)


@pytest.mark.parametrize("value", ["kodf", [3], {"kodf": 1}])
def test_a_damaged_mark_in_a_checkpoint_is_refused(tmp_path, value):
    state = {"model": {"a": torch.zeros(1)}, "config": {"train": {}}, "split_checksums": {}}
    save_checkpoint(tmp_path / "best.pt", state | {"generated_sets": value})
    with pytest.raises(CheckpointError, match="generated_sets is not a list of names"):
        load_checkpoint(tmp_path / "best.pt")


def test_a_stamped_plot_is_the_plot_with_a_line_below(tmp_path):
    def draw(name):
        figure, (axes,) = new_figure(4.4, 2)
        axes.plot([0, 1], [0, 1])
        svg = save_plot(figure, tmp_path / name, "a line")
        return cv2.imread(str(tmp_path / name)), svg

    plain, _ = draw("plain.png")
    with stamped(TRAINED):
        marked, svg = draw("marked.png")
    again, _ = draw("again.png")
    assert (again == plain).all()
    assert marked.shape[1] == plain.shape[1]
    assert (marked[: len(plain)] == plain).all()
    band = marked[len(plain) :]
    assert 20 < len(band) < 60
    assert (band < 128).any()
    assert (band[:, [0, -1]] == 255).all()  # the whole text fits
    assert TRAINED not in svg  # the page says it once, in words
