"""What a user asks of a recording: six things, in the words of the tasks that a checkpoint was trained on."""

import numpy as np
import pytest

from models.codecs.codec import pack_codes
from models.sequence.tokenizer import ByteTokenizer
from operators.documents.compose import Compose
from operators.documents.scene import Asked
from operators.documents.tasks import TASKS
from operators.documents.tasks.instructed.instructed import Instructed
from operators.errors import InputError
from operators.evaluate.ask import documents as questions
from operators.evaluate.questions import question_of
from operators.evaluate.transcribe import Transcribe
from tests.operators.documents.support import CODEC, codes_table, row_of
from tests.operators.evaluate.perfect import perfect

T = ByteTokenizer()
TURNS = ((0, 60, "ann", "good morning"), (50, 60, "bob", "hello everybody"), (300, 60, "ann", "sorry i am late"))
SIX = ("asr", "asr_target", "asr_gender", "asr_order", "asr_keyword", "asr_language")
ASKED = {
    "all": ("asr", None),
    "gender=f": ("asr_gender", "Transcribe only the female speakers."),
    "gender = Male": ("asr_gender", "Transcribe only the male speakers."),
    "order=2": ("asr_order", "Transcribe only the second person to speak."),
    "keyword=Budget": ("asr_keyword", 'Transcribe only the speakers who say "budget".'),
    "language=de-AT": ("asr_language", "Transcribe only what is said in German."),
    "voice=ann.wav": ("asr_target", "voice"),
}


def test_the_six_questions_are_put_as_their_tasks_word_them():
    for text, (task, words) in ASKED.items():
        assert question_of(text, SIX) == (task, None if words is None else Asked(words))
    assert {task for task, _ in ASKED.values()} == set(SIX)


def test_a_model_of_asr_target_alone_is_asked_in_its_short_form():
    shown = {
        "all": "all",
        "gender=f": "gender f",
        "order=2": "speaker 2",
        "keyword=Budget": "says budget",
        "language=de": "language de",
        "voice=x": "voice",
    }
    for text, words in shown.items():
        assert question_of(text, ("asr_target",)) == ("asr_target", Asked(words))


@pytest.mark.parametrize(
    "text", ["", "gender", "gender=", "order=two", "order=0", "keyword=two words", "age=9", "voice"]
)
def test_what_cannot_be_asked_is_refused_with_what_can(text):
    with pytest.raises(
        InputError, match="is none of all, voice=FILE, gender=female, order=2, keyword=budget, language=de"
    ):
        question_of(text, SIX)


def test_what_the_model_was_never_trained_on_is_refused():
    with pytest.raises(
        InputError, match=r"needs a checkpoint that was trained on asr_order or asr_target; this one was on"
    ):
        question_of("order=2", ("asr", "asr_gender"))
    with pytest.raises(InputError, match="trained on asr_target; this one was on asr_order"):
        question_of("voice=x", ("asr_order",))


def prompts_of(task, asked, row, **options):
    """Prompts of all windows of a recording, and its hypothesis; every window is answered with its own number."""
    made = []

    def answer(given, *, are_free=False):
        first = len(made)
        made.extend(given)
        return [[T.speaker(0), *T.encode(f"answer{first + n}"), T.END] for n in range(len(given))]

    operator = perfect({"tasks": SIX, "window_s": 3.0, **options}, task=task, asked=asked)
    object.__setattr__(operator, "answer", answer)
    operator.check_task()
    recording = Transcribe.recording(operator, row, CODEC)
    operator.transcribe([recording])
    return made, recording.hypothesis("x")


@pytest.mark.parametrize("task", [name for name in SIX if isinstance(TASKS[name], Instructed)])
def test_a_users_prompt_is_that_of_evaluation(task):
    """The same question asked with and without the truth: the same tokens and codes."""
    row = row_of(TURNS[:2], 110)
    ((_, document),) = questions(row, codes_table(row).schema, Compose(tasks=(task,), empty_share=0.0))
    wanted = document.question()[0]
    text = T.decode(wanted.text_tokens.tolist())
    made, found = prompts_of(task, Asked(text), {**row, "levels": None, "turns": (), "speakers": ()})
    assert len(made) == 1
    assert np.array_equal(made[0].text_tokens, wanted.text_tokens)
    assert np.array_equal(made[0].segments, wanted.segments)
    assert made[0].codes == wanted.codes
    assert [(turn["speaker"], turn["text"]) for turn in found["turns"]] == [("s0", "answer0")]


def test_every_window_of_a_longer_recording_is_asked():
    row = {**row_of(TURNS, 480), "levels": None}
    made, found = prompts_of("asr_order", Asked("Transcribe only the second person to speak."), row)
    assert len(made) == len(found["windows"]) > 2
    assert len({prompt.text_tokens.tobytes() for prompt in made}) == 1
    assert {turn["window"] for turn in found["turns"]} == set(range(len(made)))


def test_a_voice_and_hotwords_are_part_of_the_prompt():
    row = {**row_of(TURNS[:2], 110), "levels": None}
    voice = pack_codes(np.random.default_rng(5).integers(0, 16, (4, 30)), 4)
    ((prompt,), _), ((other,), _) = (prompts_of("asr_target", Asked("voice", one), row) for one in (voice, None))
    assert prompt.codes == voice + row["codes"]
    assert other.codes == row["codes"]
    assert T.show(prompt.text_tokens.tolist()) == "<asr_target><instruction>voice<enrol><audio><text>"
    operator = {"tasks": ("asr_context",)}
    ((prompt,), _) = prompts_of("asr_context", Asked("oslo bergen"), row, **operator)
    assert T.show(prompt.text_tokens.tolist()) == "<asr_context><instruction>oslo bergen<text>"


def test_tasks_that_need_the_truth_cannot_be_asked_by_a_user():
    row = row_of(TURNS[:2], 110)
    (window,) = Compose().windows(row, CODEC)
    with pytest.raises(ValueError, match="'speak' is no task that a user can ask"):
        Compose().prompt(row, window, CODEC, "speak")
    with pytest.raises(InputError, match="asr_gender is no task that names speakers"):
        perfect({"tasks": SIX}, task="asr_gender").check_task()
    with pytest.raises(InputError, match="never on asr_context"):
        perfect({"tasks": ("asr",)}, task="asr_context", asked=Asked("x")).check_task()
