"""An audit of clips whose persons nobody names says so, instead of vouching for them."""

import pytest

from loaders.audit.audit import audit
from loaders.listing import Listing
from loaders.splits.drawing import Split
from tests.clip_factory import make_clip, write_clip_folder


@pytest.mark.parametrize("kind", ["person", "family"])
def test_persons_that_nobody_names_are_a_note_and_no_persons_on_screen(tmp_path, kind):
    folders = [write_clip_folder(tmp_path / f"{i}", num_frames=20, seed=i) for i in range(2)]
    clips = [make_clip(folder, identity="test/x", pair_key="", identity_is=kind) for folder in folders]
    parts = {clip.clip_id: part for clip, part in zip(clips, ("train", "test"), strict=True)}
    split = Split("test", parts, dict.fromkeys(parts, "test/x"), set())
    found = {finding.kind: finding for finding in audit(Listing("test", clips), split).findings}
    words = {"person": "1 persons on screen", "family": "1 clip families on screen"}[kind]
    assert found["leak_identity"].summary.startswith(words)
    assert ("note_persons" in found) == (kind == "family")
    if kind == "family":
        note = found["note_persons"]
        assert note.summary.startswith("Persons are not named")
        assert note.is_note
