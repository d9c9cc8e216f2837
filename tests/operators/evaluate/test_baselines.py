"""What references score when their speakers are taken away, or when their text goes through a tokenizer."""

import pytest

from models.sequence.tokenizer import ByteTokenizer
from operators.evaluate.baselines import baseline, round_trip
from operators.scoring.result import Conditions
from operators.scoring.score import score


def entry(speaker, start_s, words):
    times = {"start_time": start_s, "end_time": start_s + 1.0}
    return {"session_id": "one", "recording_id": "one", "speaker": speaker, **times, "words": words}


ALONE = [entry("ann", 0.0, "we begin"), entry("ann", 2.0, "the meeting")]
TOGETHER = [entry("bob", 2.0, "good morning"), entry("ann", 0.0, "we begin the meeting")]


def errors(reference, name, measure, write=str):
    conditions = Conditions(measures=(measure,), draws=2)
    return score(reference, baseline(name, reference, write), conditions, num_worst=0).figure(measure).counts["errors"]


@pytest.mark.parametrize(("reference", "cpwer"), [(ALONE, 0), (TOGETHER, 4)])
def test_without_speakers_only_several_speakers_cost_errors(reference, cpwer):
    # Of two speakers the one stream is ann's: bob's two words are inserted there and missing as his.
    assert errors(reference, "no-speakers", "cpwer") == cpwer
    assert errors(reference, "no-speakers", "wer") == 0


def test_bytes_give_back_every_word_and_a_poor_tokenizer_does_not():
    bytes_ = ByteTokenizer()
    assert errors(TOGETHER, "tokenizer", "cpwer", lambda text: round_trip(bytes_.encode, bytes_.decode, text)) == 0

    def no_token_for_g(text):
        if "g" in text.split()[0]:
            raise ValueError(text)
        return bytes_.encode(text)

    assert errors(TOGETHER, "tokenizer", "cpwer", lambda text: round_trip(no_token_for_g, bytes_.decode, text)) == 2
