"""Every figure equals meeteval's and pyannote.metrics' own; `make bench-evaluate` says so of 500 sessions."""

import pytest

from tests.bench.evaluate import SESSIONS, unequal


def test_random_sessions_score_as_meeteval_and_pyannote_have_it():
    meetevals, pyannotes, compared = unequal(range(20))
    assert (meetevals, pyannotes) == (0, 0)
    assert compared["cpwer"] >= 19
    assert min(compared[name] for name in ("wer", "cer", "orcwer", "tcorcwer", "dicpwer", "tcpwer", "der", "jer")) >= 8


@pytest.mark.slow
def test_five_hundred_random_sessions_score_as_meeteval_and_pyannote_have_it():
    assert unequal(range(SESSIONS))[:2] == (0, 0)
