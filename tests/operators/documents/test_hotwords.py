"""Hotwords from the corpus's rare words: which words are rare, and where distractors come from."""

import dataclasses

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.compose import Compose
from operators.documents.hotwords import WordCounts
from operators.evaluate.ask import asked_words, reference_answers
from operators.evaluate.ask import documents as questions
from tests.operators.documents.support import CODEC, codes_table, row_of

T = ByteTokenizer()
COMMON = "people always remember the good old days of the summer"


def conversations():
    """Each says common words often, long ones among them, and two words that no other one says, one of them short."""
    rows = []
    for number in range(12):
        letter = chr(97 + number)
        turns = [(60 * i, 50, "ann", COMMON) for i in range(6)]
        turns[3] = (180, 50, "bob", f"{letter}x always {letter * 3}ville people")
        rows.append(row_of(turns, 400, f"c{number}", number))
    return rows


def lists(compose, rows, words):
    """Hotwords of each conversation's one document."""
    found = []
    for row in rows:
        (made,) = compose.documents(row, CODEC, words=words)
        tokens = made["text_tokens"]
        found.append(T.decode(tokens[2 : tokens.index(T.TEXT)]).split())
    return found


def test_rare_hotwords_are_rare_words_of_any_length_and_distractors_are_other_conversations():
    rows = conversations()
    turns = [row["turns"] for row in rows]
    words = WordCounts.rare(turns)
    own = [{f"{chr(97 + n)}x", f"{chr(97 + n) * 3}ville"} for n in range(12)]
    assert {word for word, _ in words.counts} == set.union(*own)
    assert words == WordCounts.rare(turns[::-1])
    compose = Compose(tasks=("asr_context",), window_s=20.0, hotwords=6, hotwords_from="rare", silence_share=0.0)
    assert compose.words_of("asr_context", turns) == words
    found = lists(compose, rows, words)
    assert any(own[n] & set(one) for n, one in enumerate(found))
    assert any(set(one) - own[n] for n, one in enumerate(found))
    assert set.union(*map(set, found)) <= set.union(*own)
    assert max(map(len, found)) <= 6
    # Switched off, hotwords are long words, however common.
    long = dataclasses.replace(compose, hotwords_from="long")
    found = lists(long, rows, long.words_of("asr_context", turns))
    assert any("people" in one for one in found)
    assert not any(len(word) < 5 for one in found for word in one)


def test_lists_are_as_long_as_the_option_lets_them_be():
    rows = conversations()
    words = WordCounts.rare(row["turns"] for row in rows)
    longest = {}
    for most in (2, 10):
        compose = Compose(tasks=("asr_context",), window_s=20.0, hotwords=most, hotwords_from="rare")
        longest[most] = max(map(len, lists(compose, rows, words)))
    assert longest == {2: 2, 10: 10}


def test_in_evaluation_rare_distractors_are_of_the_partitions_other_conversations():
    rows = conversations()
    codes = codes_table(*rows)
    compose = Compose(tasks=("asr_context",), window_s=20.0, hotwords=6, hotwords_from="rare")
    words = asked_words([codes], compose)
    asked = [d for row in rows for _, d in questions(row, codes.schema, compose, words)]
    said = [{w for turn in row["turns"] for w in turn["text_normalized"].split()} for row in rows]
    assert any(set(d.asked["hotwords"].split()) - said[n] for n, d in enumerate(asked))
    reference = reference_answers(codes, compose, words)
    assert {entry["hotwords"] for entry in reference} == {d.asked["hotwords"] for d in asked}
    # Without the option a conversation is asked with its own words alone.
    long = dataclasses.replace(compose, hotwords_from="long")
    assert asked_words([codes], long) is None
    assert asked_words([codes], dataclasses.replace(compose, tasks=("asr_keyword",))) is not None
