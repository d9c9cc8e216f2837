"""Formatted text: an instruction in the prompt makes one model write case, punctuation and numbers, or none."""

import pytest

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.compose import Compose
from operators.documents.tasks import TASKS, asked_of
from operators.errors import UnusableRowError
from tests.operators.documents.support import CODEC, codes_table, row_of

T = ByteTokenizer()
TURNS = ((0, 40, "ann", "revenue grew 12 5 percent"), (50, 40, "bob", "mhm"))
WRITTEN = ("Revenue grew 12.5 percent.", "mhm")


def conversation(written=WRITTEN, turns=TURNS, num_frames=120):
    row = row_of(turns, num_frames)
    for turn, text in zip(row["turns"], written, strict=True):
        turn["text"] = text
    return row


def both(row, **options):
    """What asr and asr_formatted show of a conversation."""
    made = Compose(tasks=("asr", "asr_formatted"), silence_share=0.0, **options)(codes_table(row)).to_pylist()
    return [T.show(document["text_tokens"]) for document in made], made


def test_the_instruction_changes_prompt_and_target_and_nothing_else():
    (plain, formatted), (one, other) = both(conversation())
    assert plain == "<asr><text>[s0]revenue grew 12 5 percent[s1]mhm<end>"
    assert formatted == "<asr><instruction>formatted<text>[s0]Revenue grew 12.5 percent.[s1]mhm<end>"
    assert one["codes"] == other["codes"]
    # Where all text is raw already, only the prompt differs.
    (plain, formatted), _ = both(conversation(), text="raw")
    assert formatted.replace("<instruction>formatted", "") == plain


def test_text_that_a_prompt_carries_over_is_formatted_too():
    later = tuple((start + 100, frames, who, text) for start, frames, who, text in TURNS)
    row = conversation(WRITTEN * 2, (*TURNS, *later), num_frames=200)
    shown, _ = both(row, window_s=4.0, overlap_s=3.0)
    carried = [one.split("<carry>")[1].split("<text>")[0] for one in shown if "<carry>" in one]
    plain, formatted = carried
    assert "Revenue grew 12.5 percent." in formatted
    assert plain in formatted.replace("Revenue", "revenue").replace("12.5", "12 5").replace(".", "")


def test_text_that_has_lost_its_form_is_refused():
    for written in (("revenue grew 12 5 percent", "mhm"), ("REVENUE GREW 12 5 PERCENT", "MHM")):
        with pytest.raises(UnusableRowError, match="turn u0 has no formatted text, which task asr_formatted needs"):
            list(Compose(tasks=("asr_formatted",)).documents(conversation(written), CODEC))


def test_a_turn_that_was_cut_between_words_is_not_taken_for_formatted():
    """Its text is put together from words that have times, and they have no capitals."""
    turns = ((0, 200, "ann", "we grew by two percent and fell by three"),)
    row = row_of(turns, 200, words=True)
    assert list(Compose(tasks=("asr_formatted",)).documents(row, CODEC))
    unusable = []
    with pytest.raises(UnusableRowError, match="no formatted text"):
        list(Compose(tasks=("asr_formatted",), window_s=3.0).documents(row, CODEC, unusable))


def test_a_model_of_both_writes_normalized_text_unless_it_is_asked():
    assert asked_of(("asr_formatted", "asr")) == "asr"
    assert asked_of(("asr_formatted",)) == "asr_formatted"
    assert TASKS["asr_formatted"].token == T.ASR
