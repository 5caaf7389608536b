"""The challenge's files from parts."""

import json
import zipfile

from utils.evaluation.submission import Prediction, finish, part_path, write_part

ROWS = [
    [Prediction("000003.mp4", 0.91234567890123, [[0.95, 4.0, 4.8], [0.2, 0.1, 0.30000000000000004]])],
    [Prediction("000001.mp4", None, []), Prediction('b"ä.mp4', 1e-17, [])],
]


def test_parts_become_files_and_zips_in_their_order(tmp_path):
    for number, rows in enumerate(ROWS):
        write_part(part_path(tmp_path, number), rows)
    made = finish(tmp_path, 2, with_segments=True)
    assert [path.name for path in made] == ["detection.zip", "localisation.zip"]
    text = (tmp_path / "prediction.txt").read_text(encoding="utf-8")
    assert text == '000003.mp4;0.91234567890123\n000001.mp4;0.5\nb"ä.mp4;1e-17\n'
    found = json.loads((tmp_path / "prediction.json").read_text(encoding="utf-8"))
    assert found == {
        "000003.mp4": [[0.95, 4.0, 4.8], [0.2, 0.1, 0.3]],
        "000001.mp4": [[0, 0, 0]],  # the official program stops at a file without proposals
        'b"ä.mp4': [[0, 0, 0]],
    }
    assert list(found) == ["000003.mp4", "000001.mp4", 'b"ä.mp4']
    before = [path.read_bytes() for path in made]
    assert [path.read_bytes() for path in finish(tmp_path, 2, with_segments=True)] == before
    with zipfile.ZipFile(made[1]) as archive:
        assert archive.namelist() == ["prediction.json"]


def test_without_rules_for_segments_only_scores_are_written(tmp_path):
    write_part(part_path(tmp_path, 0), ROWS[0])
    assert [path.name for path in finish(tmp_path, 1, with_segments=False)] == ["detection.zip"]
    assert not (tmp_path / "prediction.json").exists()
