"""The parity command of Exposing the Deception on the fixture next to the project."""

import json

import pytest

from tests.parity import exposing_deception


@pytest.mark.slow
def test_the_released_preset_equals_the_published_code(shared, capsys):
    assert exposing_deception.main([str(shared / "fixtures/exposing_released.safetensors")]) == 0
    cases = json.loads(capsys.readouterr().out)["share_of_tolerance_used"]
    assert cases.keys() == {f"n{count}.{mode}" for count in (2, 3, 4) for mode in ("eval", "train", "mixup")}
    assert all({"w", "w_lil"} < kinds.keys() for kinds in cases.values())
