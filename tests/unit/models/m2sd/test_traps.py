"""Where each trap of M2SD's published code has its regression tests.

| trap | the published code | here |
|---|---|---|
| T1 | crashes on a GPU: mean and deviation stay on the CPU | all of the model moves |
| T2 | which score is that of a fake is not known | a setting, --fake_index |
| T3 | its threshold is another detector's | fitted on validation clips; that one only draws |
| T4 | its README gives places where the script takes flags | refused; commands of READMEs are tested |
| T5 | a checkpoint that does not fit leaves random weights | loaded whole or not at all |
| T6 | positions are one further than in VideoMAE | the same, and VideoMAE's weights are taken as they are |
| T7 | a head of zeros sends no gradient into the network | it starts small, unless that is asked for |
| T8 | up to four frames end the program | mirrored |
| T9 | frames' scores are means over faces, and the last face's box is drawn | each face has its own |
| T10 | a face that comes late or is missed once is lost | followed; the published rules are for comparison |
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[3]
PLACES = {  # trap -> tests as file::name, below tests/
    "T1": ("unit/models/m2sd/test_detector.py::test_the_whole_model_moves_to_another_device",),
    "T2": (
        "unit/models/m2sd/test_detector.py::test_a_released_file_scores_as_published_by_the_stated_polarity",
    ),
    "T3": ("e2e/test_m2sd.py::test_the_threshold_is_fitted_on_the_validation_clips",),
    "T4": (
        "e2e/test_m2sd.py::test_a_video_without_its_flag_is_refused",
        "e2e/test_readmes.py::test_commands_exist_and_take_the_flags_that_a_readme_gives_them",
    ),
    "T5": ("unit/models/m2sd/test_detector.py::test_a_released_file_is_loaded_whole_or_not_at_all",),
    "T6": (
        "unit/models/test_vit.py::test_a_class_token_moves_the_tubelets_positions_by_one",
        "unit/models/backbones/test_videomae.py::test_m2sd_starts_from_it",
    ),
    "T7": ("unit/models/m2sd/test_detector.py::test_the_head_starts_small_and_the_released_one_at_nothing",),
    "T8": (
        "unit/models/m2sd/test_detector.py::test_short_clips_are_mirrored_and_padding_changes_nothing",
        "unit/models/m2sd/test_clips.py::test_short_faces_are_mirrored",
    ),
    "T9": (
        "e2e/test_render_m2sd.py::test_a_word_and_a_box_for_each_of_two_faces",
        "e2e/test_video.py::test_two_faces_side_by_side_have_tracks_and_scores_of_their_own",
    ),
    "T10": (
        "unit/preprocess/faces/test_m2sd_rules.py::test_the_stretches_that_are_judged",
        "unit/preprocess/faces/test_faces.py::"
        "test_before_the_face_comes_and_after_it_has_gone_the_crop_is_black",
        "unit/preprocess/faces/test_faces.py::test_a_face_that_is_hidden_for_a_second_stays_one_track",
    ),
}


def test_the_table_has_all_ten():
    rows = [line.split("|")[1].strip() for line in __doc__.splitlines() if line.startswith("| T")]
    assert rows == list(PLACES) == [f"T{number}" for number in range(1, 11)]


@pytest.mark.parametrize("trap", PLACES)
def test_a_trap_has_a_test(trap):
    for place in PLACES[trap]:
        path, name = place.split("::")
        tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, place
