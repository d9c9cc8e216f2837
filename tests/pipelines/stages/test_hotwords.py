"""Hotwords that are not said come from the conversations of the shard, however they are cut into batches."""

from operators.documents.compose import Compose
from operators.documents.hotwords import WordCounts
from pipelines.stages.pack import _words
from tests.operators.documents.support import codes_table, row_of


def test_words_of_a_shard_do_not_depend_on_its_batches():
    rows = [
        row_of(((0, 40, "ann", f"good morning {word}"),), 60, name=word) for word in ("pancakes", "whisper", "late")
    ]
    compose = Compose(tasks=("asr_context",))
    whole = _words(compose, [codes_table(*rows)])
    assert whole == WordCounts((("morning", 3), ("pancakes", 1), ("whisper", 1)))
    assert whole == _words(compose, [codes_table(*rows[:0:-1]), codes_table(rows[0])])
    assert _words(Compose(tasks=("asr",)), [codes_table(*rows)]) is None
