"""Who is who in a conversation that is cut into windows: from documents to scores."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.sequence.documents import TEXT
from models.sequence.tokenizer import ByteTokenizer
from operators.documents.compose import Compose
from operators.documents.tasks import EVALUATED, transcription
from operators.errors import UnusableRowError
from operators.evaluate.score import cpwer, hypothesis_segments, reference_segments, tcpwer, windows_of
from operators.evaluate.transcribe import Transcribe
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
    made = Compose(window_s=5.0)(codes_table(row_of(untranscribed, 600))).to_pylist()
    assert [document["document_id"] for document in made] == ["c0/0/asr", "c0/2/asr"]
    silent = tuple((s, n, who, "") for s, n, who, _ in MEETING)
    with pytest.raises(UnusableRowError, match="has no text to transcribe"):
        Compose(window_s=5.0)(codes_table(row_of(silent, 600)))


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


class Perfect(Transcribe):
    """Stands in for a model that answers each window with its training target."""

    @property
    def header(self):  # what evaluation would read from a checkpoint
        raise AssertionError("no checkpoint is needed")

    weights_digest = "perfect"
    tokenizer = TOKENIZER

    @property
    def compose(self):
        return Compose(window_s=self.window_s)

    def check_codec(self, codec):
        assert codec == CODEC

    def prompt(self, row, window, codec):
        return self.compose.scene(row, window, codec, self.task, "question")

    def answer(self, prompts):
        return [transcription(self.task).target(scene)[: self.most_tokens] for scene in prompts]


@settings(max_examples=60, deadline=None)
@given(meeting=meetings(), window_s=st.sampled_from([4.0, 5.0, 8.0, 40.0]), task=st.sampled_from(EVALUATED))
def test_a_perfect_answer_scores_zero_through_every_windowing(meeting, window_s, task):
    turns, num_frames = meeting
    codes = codes_table(row_of(turns, num_frames))
    try:
        hypotheses = Perfect(checkpoint="", window_s=window_s, task=task, max_tokens=10_000)(codes)
    except UnusableRowError:
        return
    reference = reference_segments(codes, CODEC.frame_rate_hz, windows_of(hypotheses))
    reference = [entry for entry in reference if entry["words"]]
    if not reference:
        return
    is_timed = transcription(task).predicts_times
    hypothesis = hypothesis_segments(hypotheses, CODEC.frame_rate_hz, is_timed=is_timed)
    assert cpwer(reference, hypothesis).errors == 0
    assert all(("start_time" in entry) == is_timed for entry in hypothesis)
    if is_timed:
        assert tcpwer(reference, hypothesis).errors == 0


def test_times_of_later_windows_count_from_the_conversations_start():
    codes = codes_table(row_of(MEETING, 600))
    hypotheses = Perfect(checkpoint="", window_s=5.0, task="asr_timed")(codes).to_pylist()
    (row,) = hypotheses
    assert len(row["windows"]) == 3
    written = [(turn["start_s"], turn["end_s"]) for turn in row["turns"]]
    spoken = [(s / CODEC.frame_rate_hz, (s + n) / CODEC.frame_rate_hz) for s, n, _, _ in MEETING]
    assert written == [pytest.approx(span, abs=0.006) for span in spoken]
    assert [turn["window"] for turn in row["turns"]] == [0, 0, 1, 1, 1, 2, 2]


def test_words_at_the_wrong_time_are_errors_of_tcpwer_only():
    codes = codes_table(row_of(MEETING, 600))
    hypotheses = Perfect(checkpoint="", window_s=40.0, task="asr_timed")(codes)
    reference = reference_segments(codes, CODEC.frame_rate_hz, windows_of(hypotheses))
    late = [
        {**entry, "start_time": entry["start_time"] + 7, "end_time": entry["end_time"] + 7}
        for entry in hypothesis_segments(hypotheses, CODEC.frame_rate_hz, is_timed=True)
    ]
    assert cpwer(reference, late).errors == 0
    assert tcpwer(reference, late).errors > 0
    assert tcpwer(reference, late, collar_s=8.0).errors == 0


def test_a_timed_answer_that_was_cut_is_still_scored_by_its_times():
    codes = codes_table(row_of(MEETING, 600))
    uncut = Perfect(checkpoint="", window_s=5.0, task="asr_timed")(codes).to_pylist()[0]
    # "[0.00][s0]we begin the me": the first window's answer ends within its first turn.
    cut = Perfect(checkpoint="", window_s=5.0, task="asr_timed", max_tokens=20)(codes)
    (row,) = cut.to_pylist()
    first = row["turns"][0]
    assert uncut["turns"][0]["text"].startswith(first["text"])
    assert (first["start_s"], first["end_s"]) == (uncut["turns"][0]["start_s"], None)
    entries = hypothesis_segments(cut, CODEC.frame_rate_hz, is_timed=True)
    window = row["windows"][0]
    end_s = (window["start_frame"] + window["num_frames"]) / CODEC.frame_rate_hz
    assert (entries[0]["start_time"], entries[0]["end_time"]) == (first["start_s"], end_s)
    reference = reference_segments(codes, CODEC.frame_rate_hz, windows_of(cut))
    assert 0 < tcpwer(reference, entries).deletions <= tcpwer(reference, entries).errors


def test_answers_that_reach_the_most_tokens_are_counted_as_cut():
    codes = codes_table(row_of(MEETING, 600))
    assert Perfect(checkpoint="", window_s=5.0)(codes)["num_cut"].to_pylist() == [0]
    assert Perfect(checkpoint="", window_s=5.0, max_tokens=10)(codes)["num_cut"].to_pylist() == [3]
    # Fast speech of 15 letters a second fits by default, however long the window.
    assert Transcribe(checkpoint="", window_s=60.0).most_tokens >= 60 * 15


def test_without_windows_of_their_own_conversations_are_sessions():
    codes = codes_table(row_of(MEETING, 600))
    reference = reference_segments(codes, CODEC.frame_rate_hz, {})
    assert {entry["session_id"] for entry in reference} == {"c0"}
    score = cpwer(reference, [])
    assert (score.rate, score.num_sessions, score.num_conversations) == (1.0, 1, 1)
