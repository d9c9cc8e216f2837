"""Who is who in a conversation that is cut into windows: from documents to scores."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.sequence.documents import TEXT
from models.sequence.tokenizer import ByteTokenizer
from operators.documents.compose import Compose
from operators.documents.tasks import EVALUATED, transcription
from operators.errors import UnusableRowError
from tests.operators.documents.support import CODEC, codes_table, row_of

TOKENIZER = ByteTokenizer()
MEETING = (
    (0, 60, "ann", "we begin the meeting now"),
    (70, 60, "bob", "good morning to everyone"),
    (200, 60, "carl", "sorry i am late"),
    (270, 30, "dora", "me too"),
    (310, 50, "carl", "the train stood still"),
    (440, 60, "ann", "then we can start"),
    (510, 60, "carl", "first the budget please"),
)


def parts(document):
    """Prompt and answer of a transcription document, as tokens."""
    tokens = document["text_tokens"]
    # `<text>` is the only text segment of one token before the answer, whose own text cannot contain it.
    border = len(tokens) - 1 - tokens[::-1].index(TOKENIZER.TEXT)
    return tokens[:border], tokens[border + 1 :]


def tags(tokens):
    return [t - TOKENIZER.FIRST_SPEAKER for t in tokens if TOKENIZER.FIRST_SPEAKER <= t < TOKENIZER.FIRST_TEXT]


def test_a_later_window_numbers_the_speakers_that_arrive_in_it():
    row = row_of(MEETING, 600)
    answers = [TOKENIZER.show(parts(d)[1]) for d in Compose(window_s=5.0)(codes_table(row)).to_pylist()]
    assert answers[1] == "[s0]sorry i am late[s1]me too[s0]the train stood still<end>"
    assert answers[2].startswith("[s0]then we can start[s1]first")


def test_speakers_that_the_prompt_names_keep_their_tags_and_others_follow():
    row = row_of(MEETING, 600)
    compose = Compose(window_s=8.0, overlap_s=4.0, carry_voices=True)
    documents = compose(codes_table(row)).to_pylist()
    prompt, answer = parts(documents[-1])
    assert tags(prompt)  # something is carried
    known = max(tags(prompt)) + 1
    new = [tag for tag in dict.fromkeys(tags(answer)) if tag >= known]
    assert new == list(range(known, known + len(new)))


def test_an_instruction_counts_speakers_as_they_arrive_in_the_window():
    row = row_of(MEETING, 600)
    compose = Compose(window_s=5.0, tasks=("asr_target",))
    later = compose.windows(row, CODEC)[1]
    from operators.documents.tasks.asr_target import instructions

    found = instructions(compose.scene(row, later, CODEC, "asr_target", "d"))
    by_number = {one.text: {turn["speaker"] for turn in one.turns} for one in found if one.kind == "speaker"}
    assert by_number == {"speaker 1": {"carl"}, "speaker 2": {"dora"}}


def test_a_window_that_nobody_has_transcribed_makes_no_document():
    untranscribed = tuple((s, n, who, "" if 200 <= s < 400 else text) for s, n, who, text in MEETING)
    made = Compose(window_s=5.0, silence_share=0)(codes_table(row_of(untranscribed, 600))).to_pylist()
    assert [document["document_id"] for document in made] == ["c0/0/asr", "c0/2/asr"]
    silent = tuple((s, n, who, "") for s, n, who, _ in MEETING)
    with pytest.raises(UnusableRowError, match="has no text to transcribe"):
        Compose(window_s=5.0)(codes_table(row_of(silent, 600)))


def test_silence_that_windows_leave_out_teaches_to_write_nothing():
    talk = ((0, 60, "ann", "we begin"), (2000, 60, "bob", "me too"), (2070, 60, "ann", "good"))
    row = row_of(talk, 3000, words=True)
    compose = Compose(tasks=("asr", "asr_timed", "continue"), window_s=5.0, silence_share=0.9, prompt_s=1.0)
    documents = compose(codes_table(row)).to_pylist()
    silent = [d for d in documents if "/silence-" in d["document_id"]]
    assert {d["task"] for d in silent} == {"asr", "asr_timed"}
    assert len(silent) == 2 * (9 + 4)  # frames 200 to 1,860 and 2,265 to 3,000
    for document in silent:
        start, end = document["start_frame"], document["start_frame"] + document["num_frames"]
        assert all(
            end <= turn["start_frame"] or turn["start_frame"] + turn["num_frames"] <= start for turn in row["turns"]
        )
        assert parts(document)[1] == [TOKENIZER.END]
        assert document["loss_spans"] == [
            {
                "kind": TEXT,
                "start_column": document["num_columns"] - 1,
                "end_column": document["num_columns"],
                "weight": 1.0,
            }
        ]
    recorded = compose(codes_table({**row, "origin": "recorded"})).to_pylist()
    late = [d["start_frame"] for d in recorded if "/silence-" in d["document_id"]]
    assert late
    assert max(late) < 2000  # after the last turn, speech may go on that nobody has annotated
    for task in ("asr", "asr_timed"):
        grammar = transcription(task).grammar(TOKENIZER, 5.0, 0)
        assert bool(grammar.mask(grammar.start())[TOKENIZER.END])


def test_silence_makes_no_more_documents_than_its_share():
    rows = [row_of(((0, 60, "ann", "we begin"), (3000, 60, "bob", "so")), 3200, name=f"c{i}") for i in range(100)]
    for share in (0.0, 0.2):
        made = Compose(window_s=5.0, silence_share=share)(codes_table(*rows)).to_pylist()
        silent = sum("/silence-" in d["document_id"] for d in made)
        assert silent / len(made) == pytest.approx(share, abs=0.06)
    half = Compose(window_s=5.0, silence_share=0.2)(codes_table(*rows[50:])).to_pylist()
    assert half == [d for d in made if int(d["conversation_id"][1:]) >= 50]


def test_a_window_that_cannot_be_used_leaves_the_others_of_its_conversation():
    crowd = tuple((300 + i, 40, f"voice{i}", "so") for i in range(40))
    compose, row = Compose(window_s=5.0), row_of(((0, 60, "ann", "we begin"), *crowd), 500)
    unusable = []
    made = list(compose.documents(row, CODEC, unusable))
    assert [document["document_id"] for document in made][:1] == ["c0/0/asr"]
    assert [(name, "tags for 31 speakers" in reason) for name, reason in unusable] == [("c0/1/asr", True)]


@st.composite
def meetings(draw):
    turns, end, busy = [], 0, {}
    for i in range(draw(st.integers(1, 14))):
        who = draw(st.sampled_from("abcde"))  # who never overlaps themselves
        start = max(0, end + draw(st.integers(-20, 60)), busy.get(who, 0))
        length = draw(st.integers(5, 60))
        turns.append((start, length, who, draw(st.sampled_from([f"words of turn {i}", f"turn {i}", ""]))))
        busy[who] = start + length
        end = max(end, start + length)
    return sorted(turns), end + draw(st.integers(0, 40))


OPTIONS = st.fixed_dictionaries(
    {
        "overlap_s": st.sampled_from([0.0, 2.0, 4.0]),
        "carry_voices": st.booleans(),
        "enrol_s": st.sampled_from([0.5, 2.0]),
    }
)


@settings(max_examples=60, deadline=None)
@given(meeting=meetings(), options=OPTIONS, task=st.sampled_from(EVALUATED))
def test_every_target_is_allowed_by_the_grammar_that_evaluation_decodes_with(meeting, options, task):
    turns, num_frames = meeting
    compose = Compose(window_s=5.0, tasks=(task,), **options)
    try:
        documents = compose(codes_table(row_of(turns, num_frames))).to_pylist()
    except UnusableRowError:
        return  # nothing is transcribed
    for document in documents:
        prompt, answer = parts(document)
        carried = max(tags(prompt), default=-1) + 1
        grammar = transcription(task).grammar(TOKENIZER, compose.window_s, carried)
        state = grammar.start()
        for token in answer:
            assert grammar.mask(state)[token], TOKENIZER.show(answer)
            state = state if token == TOKENIZER.END else grammar.advance(state, token)
        # Activity counts talkers as tags do.
        assert set(tags(prompt + answer)) <= set(range(len({*tags(prompt + answer)})))
        assert {span["talker"] for span in document["talker_spans"]} >= set(tags(answer))
        assert all(segment["kind"] == TEXT or segment["length"] for segment in document["segments"])
