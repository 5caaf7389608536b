"""Scores of every epoch in the run directory, and what is made of them."""

import dataclasses
import json

import numpy as np
import pytest

from tests.clip_factory import make_clip
from utils.errors import DatasetError
from utils.evaluation import validation
from utils.evaluation.cross_fit import CrossFit
from utils.evaluation.decision import Decision
from utils.evaluation.promise import promise_of, sentences
from utils.evaluation.scoring import ClipScores
from utils.evaluation.validation import NAME, NOT_CHOSEN, EpochScores, Validation
from utils.run.resume import Best


@pytest.fixture
def clips(tmp_path):
    """24 clips of 6 persons, reals and fakes in turn."""
    return [
        make_clip(tmp_path / "clips" / f"{i:02d}", identity=f"p{i % 6 // 2 + 3 * (i // 12)}", label=i % 2)
        for i in range(24)
    ]


def scores_of(clips, epoch, *, without=()):
    logits = np.random.default_rng(epoch).normal(size=len(clips)) + [clip.label for clip in clips]
    rows = [row for row in range(len(clips)) if row not in without]
    return ClipScores(
        clip_ids=[clips[row].clip_id for row in rows],
        labels=np.array([clips[row].label for row in rows], float),
        logits=logits[rows],
        video_logits=None,
        audio_logits=None,
        num_windows=np.ones(len(rows), np.int64),
        window_logits=[],
        mean_terms={"total": float(epoch)},
    )


def test_a_run_that_is_resumed_ends_with_the_same_file(tmp_path, clips, caplog):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    kept = EpochScores(one, 0)
    for epoch in range(4):
        kept.add(epoch, clips, scores_of(clips, epoch, without=(5,) if epoch == 3 else ()))
    kept = EpochScores(two, 0)
    for epoch in range(3):
        kept.add(epoch, clips, scores_of(clips, epoch))
    kept = EpochScores(two, 2)  # last.pt knows of two epochs: the third is begun again
    assert sorted(kept.logits) == [0, 1]
    left = [clip for row, clip in enumerate(clips) if row != 5]  # set aside, so not listed any more
    kept.add(2, clips, scores_of(clips, 2))
    kept.add(3, left, scores_of(clips, 3, without=(5,)))
    assert (one / NAME).read_bytes() == (two / NAME).read_bytes()
    assert not caplog.text
    found = kept.cross_fit(0.01, chosen=1, by_loss=False)
    assert (found.num_epochs, found.num_reals, found.num_real_persons) == (4, 12, 6)
    kept.add(4, clips, scores_of(clips, 4, without=(0,)))  # a real one
    assert kept.cross_fit(0.01, chosen=1, by_loss=False).num_reals == 11


def test_the_file_is_small_and_holds_scores_of_every_epoch(tmp_path, clips):
    kept = EpochScores(tmp_path, 0)
    sizes = []
    for epoch in range(6):
        kept.add(epoch, clips, scores_of(clips, epoch))
        sizes.append((tmp_path / NAME).stat().st_size)
    assert max(np.diff(sizes)) < 200  # 24 clips
    with np.load(tmp_path / NAME, allow_pickle=False) as file:
        about = json.loads(file["about"].tobytes())
        assert about["persons"] == [clip.identity for clip in clips]
        assert about["clip_ids"] == [clip.clip_id for clip in clips]
        assert (file["logits"].dtype, file["logits"].shape) == (np.float32, (6, 24))
        np.testing.assert_array_equal(file["logits"][4], scores_of(clips, 4).logits.astype(np.float32))


@pytest.mark.parametrize("damage", ["no file", "no archive", "half", "other"])
def test_a_run_without_its_scores_goes_on_and_says_what_is_missing(tmp_path, clips, caplog, damage):
    kept = EpochScores(tmp_path, 0)
    kept.add(0, clips, scores_of(clips, 0))
    kept.add(1, clips, scores_of(clips, 1))
    path, content = tmp_path / NAME, (tmp_path / NAME).read_bytes()
    if damage == "no file":
        path.unlink()
    elif damage == "other":
        np.savez(path.open("wb"), logits=np.zeros(3))
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "half" else b"scores")
    kept = EpochScores(tmp_path, 2)
    assert "cannot be read" in caplog.text
    assert "the scores of epoch 0, 1 are missing" in caplog.text
    kept.add(2, clips, scores_of(clips, 2))
    assert "were not kept" in kept.cross_fit(0.01, chosen=2, by_loss=False)
    caplog.clear()
    EpochScores(tmp_path, 3)
    assert "the scores of epoch 0, 1 are missing" in caplog.text


def test_other_processes_write_nothing(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(validation, "is_main", lambda: False)
    of_run, best = Validation(tmp_path, 1, rate=0.01, select_by="val_auc"), Best(higher_is_better=True)
    of_run.end_epoch(1, clips, scores_of(clips, 1), best)
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("select_by", ["val_auc", "val_loss"])
def test_the_chosen_epoch_is_cross_fitted_and_again_when_all_are_done(tmp_path, clips, select_by):
    of_run = Validation(tmp_path, 0, rate=0.01, select_by=select_by)
    best = Best(higher_is_better=select_by == "val_auc")
    stored = []
    for epoch in range(4):
        row, result = of_run.end_epoch(epoch, clips, scores_of(clips, epoch), best)
        stored.append(result["decision"]["cross_fit"])
        if best.update(row[select_by]):
            content = result | {"model": None}
            assert stored[-1]["num_epochs"] == epoch + 1
        else:
            assert stored[-1] == NOT_CHOSEN
    changed = of_run.complete(content)
    again = changed["decision"]["cross_fit"]
    assert again["num_epochs"] == 4
    kept = of_run.kept.cross_fit(0.01, chosen=content["epoch"], by_loss=select_by == "val_loss")
    assert again == dataclasses.asdict(kept)
    assert changed["decision"] | {"cross_fit": None} == content["decision"] | {"cross_fit": None}
    assert Decision.from_plain(changed["decision"]).as_plain() == changed["decision"]
    assert of_run.complete({"epoch": 1}) == {}  # a best.pt from before decisions


def test_where_no_labels_are_needed_reals_alone_have_a_loss_and_no_decision(tmp_path, clips):
    reals = [dataclasses.replace(clip, label=0) for clip in clips]
    best = Best(higher_is_better=False)
    of_run = Validation(tmp_path, 0, rate=0.01, select_by="val_loss", needs_classes=False)
    row, result = of_run.end_epoch(0, reals, scores_of(reals, 3), best)
    assert row == {"val_loss": 3.0}
    assert result == {"epoch": 0, "val": {}}
    assert of_run.complete(result) == {}
    assert EpochScores(tmp_path, 1).logits[0].shape == (24,)
    row, result = of_run.end_epoch(1, clips, scores_of(clips, 1), best)  # with fakes it has all of it
    assert {"val_auc", "val_loss"} < row.keys()
    assert result["decision"]["clip"]["num_fakes"] == 12
    of_run = Validation(tmp_path, 0, rate=0.01, select_by="val_loss")
    with pytest.raises(DatasetError, match="AUC, AP and EER need both"):
        of_run.end_epoch(0, reals, scores_of(reals, 3), best)


def test_the_larger_bound_is_promised_and_said_in_one_sentence(tmp_path, clips):
    of_run, best = Validation(tmp_path, 0, rate=0.01, select_by="val_auc"), Best(higher_is_better=True)
    _, result = of_run.end_epoch(0, clips, scores_of(clips, 0), best)
    decision = dataclasses.replace(Decision.from_plain(result["decision"]), identity_is="family")
    numbers = {"num_folds": 6, "num_reals": 12, "num_real_persons": 6, "num_reals_accused": 3, "rate": 0.25}
    for bound, is_larger in ((0.9, True), (0.01, False)):
        again = CrossFit(num_epochs=30, bound=bound, **numbers)
        promise = promise_of(dataclasses.replace(decision, cross_fit=again), num_faces=2)
        assert promise["cross_fit"] == dataclasses.asdict(again)
        expected = max(bound, decision.clip.false_positive_bound)
        assert promise["false_positive_bound"] == expected
        assert promise["false_positive_bound_of_threshold"] == decision.clip.false_positive_bound
        assert promise["false_positive_bound_of_any_face"] == min(1, 2 * expected)
        (told,) = [text for text in sentences(promise) if "chosen again" in text]
        assert told.startswith(
            "Epoch (of 30) and threshold were chosen again 6 times, each time without some of the 6 clip "
            "families: 3 of the 12 real clips left out were above it (25.0%, 95 % bound "
        )
        assert ("the larger one" in told) == is_larger
        assert f"up to {expected:.1%} may be above it" in sentences(promise)[1]


def test_a_checkpoint_without_it_says_why(tmp_path, clips):
    of_run, best = Validation(tmp_path, 0, rate=0.01, select_by="val_auc"), Best(higher_is_better=True)
    _, result = of_run.end_epoch(0, clips, scores_of(clips, 0), best)
    before = {name: value for name, value in result["decision"].items() if name != "cross_fit"}
    promise = promise_of(Decision.from_plain(before))
    assert promise["false_positive_bound"] == promise["false_positive_bound_of_threshold"]
    assert "was not tried on other persons: the scores of the run's" in " ".join(sentences(promise))
    del promise["cross_fit"], promise["false_positive_bound_of_threshold"]  # a test_metrics.json from before
    assert not any("tried" in text for text in sentences(promise))
