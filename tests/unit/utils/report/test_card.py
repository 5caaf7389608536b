"""Result cards: written next to the numbers, printed as rows of a table."""

import copy
import json

import pytest

from utils.errors import DatasetError, UsageError
from utils.report.card import NAME, as_table, main, read_cards, result_card, write_cards

RESULT = {
    "dataset": "fakeavceleb",
    "split": "test",
    "split_checksum": "c" * 64,
    "ids_sha256": "1" * 64,
    "caveat": "trained on generated clips: says nothing about real videos",
    "seen_in_training": None,
    "trimmed": "no",
    "overall": {"num_real": 1500, "num_fake": 30, "auc": 0.91234, "ap": 0.99, "eer": 0.1, "accuracy": 0.8},
    "intervals": {"overall": {"auc": [0.9, 0.95]}, "num_persons": 31, "clustered_by": "person"},
    "run": {"name": "run", "model": "mrdf", "preset": "paper", "checkpoint_sha256": "a" * 64},
    "data": {"label_rule": "any"},
    "command": "python test.py --checkpoint a|b",
    "environment": {"commit": "0123456789ab"},
}


def test_a_card_says_what_its_number_is_of(tmp_path, capsys):
    other = copy.deepcopy(RESULT) | {"trimmed": "amplitude", "coverage": {"share": 0.5}}
    other["protocol"] = {"name": "fakeavceleb_avh", "ids_sha256": "d" * 64, "misfits": ""}
    other["run"] = {"name": "theirs", "checkpoint_sha256": "b" * 64, "is_score_file": True}
    write_cards(tmp_path, [RESULT, other])
    one, two = read_cards(tmp_path)
    assert one == json.loads((tmp_path / NAME).read_text())["cards"][0]
    assert (one["model"], one["weights_sha256"], one["commit"]) == ("mrdf paper", "a" * 64, "0123456789ab")
    assert one["metrics"]["auc"] == {"value": 0.91234, "interval": [0.9, 0.95]}
    assert (two["weights_sha256"], two["scores_sha256"]) == (None, "b" * 64)
    assert main(["--card", str(tmp_path), str(tmp_path / NAME)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "0.9123 [0.9000, 0.9500]" in lines[2]
    assert "1,500 real, 30 fake; 31 persons" in lines[2]
    assert "test, split `cccccccccccc`" in lines[2]
    assert "says nothing about real videos" in lines[2]
    assert "fakeavceleb_avh `dddddddddddd` (figures as published), test" in lines[3]
    assert "| amplitude |" in lines[3]
    assert "50.0% of the clips have a score" in lines[3]


def test_emotions_and_one_class_have_cards_too():
    emotions = copy.deepcopy(RESULT)
    emotions["overall"] |= {"auc": None, "ap": None, "eer": None, "macro_auc": 0.7}
    emotions["intervals"] = {
        "macro_auc": [0.6, 0.8],
        "accuracy": [0.7, 0.9],
        "num_persons": 9,
        "clustered_by": "person",
    }
    card = result_card(emotions)
    assert card["metrics"].keys() == {"macro_auc", "accuracy"}
    assert card["metrics"]["macro_auc"]["interval"] == [0.6, 0.8]
    fakes = copy.deepcopy(RESULT) | {"reason": "one class"}
    fakes["overall"] |= {"auc": None, "ap": None, "eer": None}
    del fakes["intervals"]
    lines = as_table([result_card(fakes), result_card(RESULT)])
    assert "| - | - | - | 0.8000 |" in lines[2]


def test_what_is_no_card_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        main(["--card", str(tmp_path)])
    for text in ("{}", "[1]", '{"cards": [1]}', "x"):
        (tmp_path / NAME).write_text(text)
        with pytest.raises(DatasetError, match=f"{NAME}: is not a"):
            main(["--card", str(tmp_path)])
    card = result_card(RESULT)
    card["metrics"]["auc"]["value"] = [1]
    for wrong in ({"metrics": {}}, card):
        (tmp_path / NAME).write_text(json.dumps({"cards": [wrong]}))
        with pytest.raises(DatasetError, match="lacks something"):
            main(["--card", str(tmp_path)])
