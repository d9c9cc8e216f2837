"""The fuzzer of stored files finds nothing silent, crashed or hung."""

from tests.fuzz.stored import fuzz


def test_damage_to_stored_files_is_never_silent_and_never_ends_the_process(tmp_path):
    counts = fuzz(40, 1, tmp_path)
    assert counts.total() == 40
    assert not counts["silent"] + counts["crashed"] + counts["hung"], counts
    assert counts["clear"] > 20
