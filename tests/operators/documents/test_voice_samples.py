"""Voice samples: of another recording, or of elsewhere in the conversation; never of what the model is asked about."""

import pytest

from models.codecs.codec import unpack_codes
from operators.documents.compose import Compose
from operators.documents.tasks import TASKS
from tests.operators.documents.support import codes_table
from tests.operators.documents.test_tasks import TURNS, answer, audio_of, conversation, documents

TAKING = [name for name, task in TASKS.items() if task.takes_voices]
LONG = TURNS + tuple((start + 200, n, who, text, ()) for start, n, who, text, _ in TURNS)


def samples(row):
    """Voice samples of a document, and the sounds that they must not stand in, as (4, T) each."""
    sounds = audio_of(row)
    number = {"extract": 1, "speak": len(sounds) - 1, "asr_target": len(sounds) - 1}[row["task"]]
    return sounds[:number], sounds[number:]


def stands_in(sample, sound):
    """Tell whether all frames of a sample follow each other in a sound."""
    length = sample.shape[1]
    return any((sound[:, i : i + length] == sample).all() for i in range(sound.shape[1] - length + 1))


@pytest.mark.parametrize("task", TAKING)
@pytest.mark.parametrize("turns", [TURNS, LONG], ids=["one window", "several windows"])
@pytest.mark.parametrize("enrolments", [True, False], ids=["enrolled", "not enrolled"])
def test_no_sample_stands_in_what_its_document_asks_about(task, turns, enrolments):
    number = 0
    for seed in range(12):
        row = conversation(turns, 160 if turns is TURNS else 360, f"c{seed}", seed=seed, enrolments=enrolments)
        for made in documents(row, tasks=(task,), window_s=4.5):
            voices, sounds = samples(made)
            number += len(voices)
            assert not any(stands_in(voice, sound) for voice in voices for sound in sounds)
            enrolled = [unpack_codes(one["codes"], 4, 4) for one in row["enrolments"]]
            if enrolments:
                assert all(any(v.shape == one.shape and (v == one).all() for one in enrolled) for v in voices)
    assert (number > 0) == (enrolments or turns is LONG)


def test_where_there_is_no_sample_nothing_is_asked_by_voice_and_it_is_counted():
    bare = conversation(enrolments=False)
    assert not documents(bare, tasks=("extract",))
    (spoken,) = documents(bare, tasks=("speak",))
    assert len(audio_of(spoken)) == 1
    for number in range(30):
        (made,) = documents({**bare, "conversation_id": f"c{number}"}, tasks=("asr_target",))
        assert len(audio_of(made)) == 1
        assert answer(made)
    long = conversation(LONG, 360, "c1", enrolments=False)
    compose = Compose(tasks=("speak", "asr"), window_s=4.5)
    counts = compose.count_voices(codes_table(bare, long, conversation(name="c3")))
    assert counts == {"voices": 2 + 4 + 2, "voices_inside": 4, "voices_missing": 2}
    assert Compose().count_voices(codes_table(bare))["voices"] == 0


def test_a_sample_is_no_longer_than_asked_for():
    (made,) = documents(conversation(), tasks=("speak",), enrol_s=0.5)
    assert [voice.shape[1] for voice in samples(made)[0]] == [20, 20]
