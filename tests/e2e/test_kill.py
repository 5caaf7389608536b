"""A few runs of tests/kill.py: killed at random moments and resumed, they end with the same bits."""

from tests.kill import kill_prepare, kill_training


def test_killed_trainings_end_with_the_bits_of_unbroken_ones(tmp_path):
    problems, counts = kill_training(tmp_path, 3, seed=0)
    assert not problems
    assert counts["runs that are identical"] == 3
    assert sum(count for name, count in counts.items() if name.startswith("killed")) >= 3


def test_killed_preprocessing_ends_with_the_same_files(tmp_path):
    problems, counts = kill_prepare(tmp_path, 3, seed=0)
    assert not problems
    assert counts["trees that are identical"] >= 1
    assert sum(count for name, count in counts.items() if name.startswith("killed")) == 3
