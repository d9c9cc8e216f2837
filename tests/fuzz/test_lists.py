"""The fuzzer of lists finds no row that ends a run, vanishes, or is read as what makes no sense."""

from tests.fuzz import BAD
from tests.fuzz.lists import FORMS, fuzz


def test_a_changed_list_is_never_read_in_silence_and_never_ends_the_process(tmp_path):
    counts = fuzz(5 * len(FORMS), 1, tmp_path)
    assert counts.total() == 5 * len(FORMS)
    assert not any(counts[name] for name in BAD), counts
    assert counts["quarantined"] > 20
