"""Every task of the table keeps the contract, on the example in its own file."""

import typing

import pytest

from operators.documents.compose import Compose
from operators.documents.tasks import EVALUATED, TASKS, transcription
from tests.operators.documents.contract import CONTRACT, Case
from tests.operators.documents.support import CODEC, row_of


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("name", TASKS)
def test_every_task_keeps_the_contract(name, clause):
    clause(Case(name))


def test_the_choices_of_a_recipe_are_the_table():
    (choices, _) = typing.get_args(typing.get_type_hints(Compose)["tasks"])
    assert typing.get_args(choices) == tuple(TASKS)


@pytest.mark.parametrize("name", EVALUATED)
def test_what_a_transcription_is_trained_to_answer_keeps_to_its_grammar_and_is_read_back(name):
    task = transcription(name)
    compose = Compose(tasks=(name,), **task.example.options)
    row = row_of(task.example.turns, task.example.num_frames, words=True)
    (window,) = compose.windows(row, CODEC)
    scene = compose.scene(row, window, CODEC, task.name, "question")
    answer = task.target(scene)
    grammar = task.grammar(scene.tokenizer, compose.window_s, 0)
    state = grammar.start()
    for token in (*answer, scene.tokenizer.END):
        assert grammar.mask(state)[token]
        state = state if token == scene.tokenizer.END else grammar.advance(state, token)
    tags = {speaker: f"s{number}" for number, speaker in enumerate(row["speakers"])}
    found = [(turn.speaker, turn.text) for turn in task.turns(scene.tokenizer, answer)]
    written = {turn["text_normalized"]: turn["text"] for turn in row["turns"]}
    wanted = [written[text] if task.writes_formatted else text for _, _, _, text in task.example.turns]
    assert found == [(tags[who], text) for (_, _, who, _), text in zip(task.example.turns, wanted, strict=True)]


def test_other_tasks_have_no_question():
    with pytest.raises(ValueError, match="'speak' is not a transcription task; choose from asr, asr_fifo"):
        transcription("speak")
