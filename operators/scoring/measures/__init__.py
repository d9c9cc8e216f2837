"""Measures: one table from a name to the file that knows everything about it.

A new measure is one file and one line in `MEASURES`; its example is held by `tests/operators/scoring/test_measures.py`.
"""

from operators.scoring.measures import diarization, generated, speaker_count, time_error
from operators.scoring.measures.asked import biased, empty
from operators.scoring.measures.cer import MEASURE as CER
from operators.scoring.measures.cpwer import MEASURE as CPWER
from operators.scoring.measures.dicpwer import MEASURE as DICPWER
from operators.scoring.measures.measure import Measure
from operators.scoring.measures.orcwer import MEASURE as ORCWER
from operators.scoring.measures.tcorcwer import MEASURE as TCORCWER
from operators.scoring.measures.tcpwer import MEASURE as TCPWER
from operators.scoring.measures.wer import MEASURE as WER

MEASURES: dict[str, Measure] = {
    "wer": WER,
    "cer": CER,
    "cpwer": CPWER,
    "orcwer": ORCWER,
    "tcpwer": TCPWER,
    "tcorcwer": TCORCWER,
    "dicpwer": DICPWER,
    "der": diarization.DER_0,
    "der_collar_0.25": diarization.DER_025,
    "jer": diarization.JER,
    "speaker_count_accuracy": speaker_count.ACCURACY,
    "speaker_count_error": speaker_count.ERROR,
    "word_start_median": time_error.WORD_MEDIAN,
    "word_start_mean": time_error.WORD_MEAN,
    "turn_start_median": time_error.TURN_MEDIAN,
    "turn_start_mean": time_error.TURN_MEAN,
    "empty_accuracy": empty.MEASURE,
    "bwer": biased.BIASED,
    "uwer": biased.UNBIASED,
    "speaker_similarity": generated.SIMILARITY,
    "duration_error": generated.DURATION_ERROR,
    "duration_error_relative": generated.DURATION_SHARE,
    "duration_ratio": generated.DURATION_RATIO,
}
"""By the name that results have."""
