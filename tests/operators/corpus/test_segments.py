import pytest

from operators.corpus.segments import read_rttm
from operators.errors import InputError


def test_bad_rttm_lines_are_named(tmp_path):
    path = tmp_path / "bad.rttm"
    for line, message in (
        ("SPEAKER a 1 0.0 -1.0 <NA> <NA> s <NA> <NA>", r"bad.rttm:2: .-1.0. is no time in seconds"),
        ("SPEAKER a 1 0.0 0 <NA> <NA> s <NA> <NA>", r"speaks for 0.0 s"),
        ("SPEAKER a 1 x 1 <NA> <NA> s <NA> <NA>", r".x. is no time in seconds"),
        ("SPEAKER a 1 0 1 <NA> <NA> two words <NA> <NA>", r"is not an RTTM line: it has 11 fields"),
    ):
        path.write_text("SPKR-INFO a\n" + line + "\n")
        with pytest.raises(InputError, match=message):
            read_rttm([path])
    with pytest.raises(InputError, match="cannot be read"):
        read_rttm([tmp_path / "none.rttm"])
