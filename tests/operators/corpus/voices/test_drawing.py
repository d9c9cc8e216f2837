from collections import Counter
from dataclasses import replace

import pytest

from operators.corpus.voices.drawing import Draw, weights_of
from operators.errors import InputError
from tests.operators.corpus.voices.tones import Tones

TEXTS = [f"this is the sentence of number {number}" for number in range(300)]
MANY = [f"{letter}{number}" for number in range(20) for letter in "Ab"]
DRAW = Draw(seed=1, hours=2.0, test_share=0.2)


def lists(parts):
    return {part.name: (part.split, part.texts) for part in parts}


def test_a_new_voice_leaves_what_the_others_say_and_a_new_text_their_order():
    before = lists(DRAW.parts({"tones": Tones(MANY)}, TEXTS))
    after = lists(DRAW.parts({"tones": Tones([*MANY, "new"])}, TEXTS))
    assert {name: after[name] for name in before} == before
    assert len({texts for _, texts in before.values()}) == len(MANY)  # and each has an order of its own
    longer = lists(DRAW.parts({"tones": Tones(MANY)}, ["one more text than before", *TEXTS]))
    for name, (split, texts) in before.items():
        assert (split, tuple(text for text in longer[name][1] if text in texts)) == (split, texts)


def test_neither_a_person_nor_a_text_is_in_both_train_and_test():
    draw = replace(DRAW, mixtures=25)
    synthesizer = Tones(MANY, mixes=True)
    parts = draw.parts({"tones": synthesizer}, TEXTS)
    people = {split: set() for split in ("train", "test")}
    texts = {split: set() for split in ("train", "test")}
    for part in parts:
        people[part.split] |= {*synthesizer.about(part.voice).people}
        texts[part.split] |= {*part.texts}
    assert sum("+" in part.voice for part in parts) == 25
    assert {part.split for part in parts if "+" in part.voice} == {"train", "test"}
    assert not people["train"] & people["test"]
    assert not texts["train"] & texts["test"]
    assert texts["train"] | texts["test"] == {*TEXTS}
    assert 2 <= len(people["test"]) <= 16
    assert 30 <= len(texts["test"]) <= 90


def test_two_programs_with_the_same_person_are_on_the_same_side():
    class Copies(Tones):
        """Each voice is a copy of one of the other program's."""

    names = [f"v{number}" for number in range(40)]
    parts = DRAW.parts({"tones": Tones(names), "copies": Copies(names)}, TEXTS)
    sides = {name: {part.split for part in parts if part.voice == name} for name in names}
    assert all(len(splits) == 1 for splits in sides.values())
    assert Counter(split for splits in sides.values() for split in splits)["test"] > 1


def test_mixtures_are_of_a_woman_and_a_man_and_hold_the_number_asked_for():
    found = replace(DRAW, test_share=0.0, mixtures=4).voices({"tones": Tones("ABcd", mixes=True)})
    assert {voice for _, voice in found[4:]} == {"A+c", "A+d", "B+c", "B+d"}
    with pytest.raises(InputError, match="--mixtures 5: there are 4 pairs"):
        replace(DRAW, test_share=0.0, mixtures=5).voices({"tones": Tones("ABcd", mixes=True)})
    with pytest.raises(InputError, match="there are 0 pairs"):
        replace(DRAW, mixtures=1).voices({"tones": Tones("ABcd")})


def test_hours_are_dealt_out_evenly_but_for_weights():
    parts = replace(DRAW, weights={"b": 0.25}).parts({"a": Tones(MANY), "b:folder": Tones(MANY)}, TEXTS)
    seconds = {part.family: part.duration_s for part in parts}
    assert sum(part.duration_s for part in parts) == pytest.approx(7200)
    assert seconds["b:folder"] == pytest.approx(seconds["a"] / 4)


def test_a_draw_that_leaves_a_split_empty_is_refused():
    with pytest.raises(InputError, match="no voice falls into the test split"):
        replace(DRAW, test_share=1e-9).parts({"tones": Tones()}, TEXTS)
    with pytest.raises(InputError, match="no text falls into the"):
        replace(DRAW, test_share=0.5).parts({"tones": Tones(MANY)}, ["hello"])
    assert {part.split for part in replace(DRAW, test_share=0.0).parts({"tones": Tones()}, TEXTS)} == {"train"}


def test_a_weight_is_a_name_and_a_number_above_zero():
    assert weights_of(["a=2", "b=0.5"]) == {"a": 2.0, "b": 0.5}
    for bad in ("a", "a=0", "a=-1", "a=x", "a=inf", "a=nan"):
        with pytest.raises(InputError, match="NAME=NUMBER"):
            weights_of([bad])
