"""The parity command of the localisation metric on the fixture next to the project."""

import json

import pytest

from tests.parity import localisation


@pytest.fixture
def content(shared):
    return json.loads((shared / "fixtures/localization_reference.json").read_text(encoding="utf-8"))


def run(content, tmp_path, capsys):
    path = tmp_path / "fixture.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    status = localisation.main([str(path)])
    return status, json.loads(capsys.readouterr().out)


def test_the_official_program_is_reproduced(content, tmp_path, capsys):
    status, report = run(content, tmp_path, capsys)
    assert (status, report["passed"], report["num_compared"]) == (0, True, 10)
    assert report["correct"]["ap"]["0.5"] > report["official"]["ap"]["0.5"]


def test_a_file_without_proposals_does_not_stop_it(content, tmp_path, capsys):
    name = content["labels"][3]["file"]
    del content["proposals"][name]
    content["proposals"][content["labels"][4]["file"]] = []
    status, report = run(content, tmp_path, capsys)
    assert (status, report["num_files_without_proposals"]) == (1, 2)  # other numbers than expected
    assert 0 < report["official"]["ar"]["100"] < content["expected"]["ar"]["100"]


def test_without_expected_numbers_there_is_nothing_to_miss(content, tmp_path, capsys):
    del content["expected"]
    status, report = run(content, tmp_path, capsys)
    assert (status, report["num_compared"], report["differences"]) == (0, 0, {})


def test_another_file_is_refused(tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        localisation.main([str(path)])
    assert stop.value.code == 2
    assert "other.json" in capsys.readouterr().err
