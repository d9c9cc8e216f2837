"""Who is who in recordings that are transcribed window by window, from codes to scores."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.corpus.normalizers import normalize
from operators.documents.tasks import EVALUATED, transcription
from operators.evaluate.cuts import pieces
from operators.evaluate.join import shared_words
from operators.evaluate.segments import hypothesis_segments, reference_segments, windows_of
from operators.evaluate.transcribe import Transcribe
from operators.scoring.result import Conditions
from operators.scoring.score import score
from operators.tokenize.encode import levels
from tests.operators.documents.support import CODEC, codes_table, row_of
from tests.operators.evaluate.perfect import perfect

RATE = CODEC.frame_rate_hz
MEETING = (
    (0, 60, "ann", "we begin the meeting now"),
    (70, 60, "bob", "good morning to everyone"),
    (200, 60, "carl", "sorry i am late"),
    (270, 30, "dora", "me too"),
    (310, 50, "carl", "the train stood still"),
    (440, 60, "ann", "then we can start"),
    (510, 60, "carl", "first the budget please"),
)


def errors(reference, hypothesis, measure="cpwer", collar_s=5.0):
    """Errors of one measure; none where nothing is said."""
    if not reference and not hypothesis:
        return 0
    conditions = Conditions(measures=(measure,), collar_s=collar_s, draws=2)
    return score(reference, hypothesis, conditions, num_worst=0).figure(measure).counts["errors"]


def scored(codes, made, task="asr", *, apart=False, measure="cpwer"):
    """Errors of hypotheses, with the entries that were compared."""
    windows = windows_of(made) if apart else None
    reference = [
        {**entry, "words": normalize(entry["words"])}
        for entry in reference_segments(codes, RATE, windows)
        if normalize(entry["words"])
    ]
    is_timed = transcription(task).predicts_times
    hypothesis = hypothesis_segments(made, RATE, is_timed=is_timed, apart=apart)
    hypothesis = [{**entry, "words": normalize(entry["words"])} for entry in hypothesis]
    return errors(reference, hypothesis, measure), reference, hypothesis


@st.composite
def meetings(draw):
    """Turns of up to five speakers, who never overlap themselves; every word is unique. Times of words, or none."""
    turns, end, busy = [], 0, {}
    for i in range(draw(st.integers(1, 14))):
        who = draw(st.sampled_from("abcde"))
        start = max(0, end + draw(st.integers(-20, 60)), busy.get(who, 0))
        length = draw(st.integers(5, 60))
        turns.append((start, length, who, " ".join(f"w{i}x{k}" for k in range(draw(st.integers(0, 5))))))
        busy[who] = start + length
        end = max(end, start + length)
    return row_of(sorted(turns), end + draw(st.integers(0, 40)), words=draw(st.booleans()))


CUTS = st.sampled_from(["quiet", "fixed", "reference"])
WINDOWS = st.sampled_from([4.0, 5.0, 8.0, 40.0])
TRAINED = st.sampled_from(
    [
        {},
        {"overlap_s": 1.0},
        {"carry_voices": True, "predicts_activity": True},
        {"carry_voices": True, "overlap_s": 2.0, "predicts_activity": True, "enrol_s": 0.6},
    ]
)


@settings(max_examples=80, deadline=None)
@given(meetings(), WINDOWS, CUTS, TRAINED, st.sampled_from(EVALUATED), st.sampled_from([0.0, 1.0, 3.0]))
def test_a_perfect_answer_scores_zero_through_every_windowing(row, window_s, cut, trained, task, overlap_s):
    codes = codes_table(row)
    joined = perfect(
        trained,
        hears_voices=True,
        window_s=window_s,
        cut=cut,
        task=task,
        overlap_s=overlap_s,
        join=("voices", "overlap", "likeness"),
    )(codes)
    wrong, _, hypothesis = scored(codes, joined, task)
    assert wrong == 0
    if transcription(task).predicts_times:
        assert scored(codes, joined, task, measure="tcpwer")[0] == 0
    assert all(("start_time" in entry) == transcription(task).predicts_times for entry in hypothesis)


@settings(max_examples=80, deadline=None)
@given(
    meetings(),
    WINDOWS,
    CUTS,
    TRAINED,
    st.sampled_from(EVALUATED),
    st.sampled_from([("voices",), ("overlap",), ("voices", "overlap"), ("likeness",)]),
)
def test_however_windows_are_joined_no_word_is_lost_or_doubled_and_no_two_people_are_one(
    row, window_s, cut, trained, task, join
):
    codes = codes_table(row)
    hears = "likeness" in join
    made = perfect(trained, hears_voices=hears, window_s=window_s, cut=cut, task=task, join=join, overlap_s=1.0)
    if "overlap" not in join:
        made = perfect(trained, hears_voices=hears, window_s=window_s, cut=cut, task=task, join=join)
    _, reference, hypothesis = scored(codes, made(codes), task)
    said = {word: entry["speaker"] for entry in reference for word in entry["words"].split()}
    assert Counter(word for entry in hypothesis for word in entry["words"].split()) == Counter(list(said))
    people = defaultdict(set)
    for entry in hypothesis:
        people[entry["speaker"]] |= {said[word] for word in entry["words"].split()}
    assert all(len(names) == 1 for names in people.values())


@settings(max_examples=40, deadline=None)
@given(meetings(), WINDOWS, CUTS, st.sampled_from(EVALUATED))
def test_windows_that_are_not_joined_are_sessions_of_their_own(row, window_s, cut, task):
    codes = codes_table(row)
    made = perfect(window_s=window_s, cut=cut, task=task, join=())(codes)
    assert scored(codes, made, task, apart=True)[0] == 0


def test_without_joining_people_are_mixed_up():
    codes = codes_table(row_of(MEETING, 600))
    made = perfect(window_s=5.0, join=())(codes)
    tags = [
        {**entry, "speaker": turn["tag"]}
        for entry, turn in zip(
            hypothesis_segments(made, RATE, is_timed=False), made.to_pylist()[0]["turns"], strict=True
        )
    ]
    assert errors(reference_segments(codes, RATE), tags) > 5
    assert scored(codes, perfect(window_s=5.0, join=(), cut="fixed")(codes))[0] > 5


def test_speakers_are_followed_by_samples_of_their_voices_in_the_prompt():
    codes = codes_table(row_of(MEETING, 600))
    trained = {"carry_voices": True, "predicts_activity": True}
    assert scored(codes, perfect(trained, window_s=5.0, join=("voices",))(codes))[0] == 0
    # A model that was not trained with voices, or tells no one where a voice is, is not given any.
    for other in ({}, {"carry_voices": True}):
        assert not perfect(other, window_s=5.0).carries_voices
        assert scored(codes, perfect(other, window_s=5.0, join=("voices",))(codes))[0] > 0
    assert perfect({"carry_voices": True}, task="asr_timed").carries_voices


def test_speakers_are_followed_by_the_words_that_two_windows_share():
    dense = [(40 * i, 38, "ab"[i % 2], f"one{i} two{i} three{i}") for i in range(20)]
    codes = codes_table(row_of(dense, 800, words=True))
    assert scored(codes, perfect(window_s=8.0, overlap_s=4.0, join=("overlap",), cut="fixed")(codes))[0] == 0
    assert scored(codes, perfect(window_s=8.0, overlap_s=0.0, join=("overlap",), cut="fixed")(codes))[0] > 0


def test_speakers_are_followed_by_the_likeness_of_their_codes():
    """Two voices whose codes have different means, which alternate in every window."""
    dense = [(80 * i, 78, "ab"[i % 2], f"one{i} two{i} three{i}") for i in range(12)]
    row = row_of(dense, 960)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, (CODEC.num_codebooks, 960))
    for start, length, who, _ in dense:
        codes[:, start : start + length] += 8 * (who == "b")
    from models.codecs.codec import pack_codes

    table = codes_table({**row, "codes": pack_codes(codes, CODEC.bits)})
    options = {"window_s": 6.0, "cut": "fixed", "task": "asr_timed"}
    assert scored(table, perfect(join=("likeness",), **options)(table), "asr_timed")[0] == 0
    alike = codes_table({**row, "codes": pack_codes(rng.integers(0, 4, codes.shape), CODEC.bits)})
    assert scored(alike, perfect(join=("likeness",), **options)(alike), "asr_timed")[0] > 0


def test_recordings_are_cut_by_their_sound_and_not_by_the_reference():
    row = row_of(MEETING, 600)
    quiet = np.full(600, 20, np.uint8)
    quiet[170:176] = 70
    made = perfect(window_s=5.0, join=())(codes_table({**row, "levels": quiet.tobytes()})).to_pylist()[0]
    assert made["windows"][0]["num_frames"] in range(171, 176)
    # A longer silence of the reference elsewhere changes nothing.
    moved = [{**turn, "start_frame": turn["start_frame"] + 3} for turn in row["turns"]]
    other = codes_table({**row, "turns": moved, "levels": quiet.tobytes()})
    assert perfect(window_s=5.0, join=())(other).to_pylist()[0]["windows"] == made["windows"]
    asked = perfect(window_s=5.0, join=(), cut="reference")(codes_table({**row, "levels": quiet.tobytes()}))
    assert asked.to_pylist()[0]["windows"] != made["windows"]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 900), st.integers(20, 300), st.integers(0, 9), st.integers(0, 9), st.sampled_from(["quiet", "fixed"])
)
def test_windows_own_every_frame_once_and_are_no_longer_than_asked(num_frames, length, back, ahead, cut):
    sound = np.random.default_rng(num_frames).integers(0, 80, num_frames).astype(np.uint8)
    found = pieces(num_frames, length, back=back, ahead=ahead, cut=cut, levels=sound, quiet_frames=4)
    assert [p.own_start for p in found] == [0, *(p.own_end for p in found[:-1])]
    assert found[-1].own_end == num_frames
    assert all(0 < p.end - p.start <= length and p.start <= p.own_start < p.own_end <= p.end for p in found)


def test_the_level_of_frames_is_that_of_their_samples():
    tone = (np.sin(np.arange(16_000)) * 3276.8 * np.sqrt(2)).astype(np.int16)
    found = levels(np.concatenate([np.zeros(4000, np.int16), tone]), 400, 52)
    assert (set(found[:10]), set(found[11:49]), found[-1]) == ({255}, {20}, 255)


def test_words_that_differ_within_what_two_windows_share_do_not_part_it():
    tail, head = ["we", "saw", "him", "in", "the", "street"], ["him", "on", "the", "street", "and", "left"]
    assert shared_words(tail, head) == [(2, 0), (4, 2), (5, 3)]
    assert shared_words(["and", "then"], ["then", "we", "left", "and", "then"]) == [(1, 0)]


def test_times_of_later_windows_count_from_the_conversations_start():
    codes = codes_table(row_of(MEETING, 600))
    (row,) = perfect(window_s=5.0, task="asr_timed", cut="reference", join=())(codes).to_pylist()
    assert len(row["windows"]) == 3
    written = [(turn["start_s"], turn["end_s"]) for turn in row["turns"]]
    spoken = [(s / RATE, (s + n) / RATE) for s, n, _, _ in MEETING]
    assert written == [pytest.approx(span, abs=0.006) for span in spoken]
    assert [turn["window"] for turn in row["turns"]] == [0, 0, 1, 1, 1, 2, 2]
    assert [turn["tag"] for turn in row["turns"]] == ["s0", "s1", "s0", "s1", "s0", "s0", "s1"]


def test_words_at_the_wrong_time_are_errors_of_tcpwer_only():
    codes = codes_table(row_of(MEETING, 600))
    _, reference, hypothesis = scored(codes, perfect(window_s=40.0, task="asr_timed")(codes), "asr_timed")
    late = [{**e, "start_time": e["start_time"] + 7, "end_time": e["end_time"] + 7} for e in hypothesis]
    assert errors(reference, late) == 0
    assert errors(reference, late, "tcpwer") > 0
    assert errors(reference, late, "tcpwer", collar_s=8.0) == 0


def test_a_timed_answer_that_was_cut_is_still_scored_by_its_times():
    codes = codes_table(row_of(MEETING, 600))
    options = {"window_s": 5.0, "task": "asr_timed", "cut": "reference", "join": ()}
    uncut = perfect(**options)(codes).to_pylist()[0]
    made = perfect(**options)
    object.__setattr__(made, "max_tokens", 20)  # "[0.00][s0]we begin the me": ends within the first turn
    cut = made(codes)
    (row,) = cut.to_pylist()
    first = row["turns"][0]
    assert uncut["turns"][0]["text"].startswith(first["text"])
    assert (first["start_s"], first["end_s"]) == (uncut["turns"][0]["start_s"], None)
    _, reference, entries = scored(codes, cut, "asr_timed", apart=True)
    window = row["windows"][0]
    end_s = (window["start_frame"] + window["num_frames"]) / RATE
    assert (entries[0]["start_time"], entries[0]["end_time"]) == (first["start_s"], end_s)
    figure = score(reference, entries, Conditions(measures=("tcpwer",))).figure("tcpwer")
    assert 0 < figure.counts["deletions"] <= figure.counts["errors"]


def test_answers_that_reach_the_most_tokens_are_counted_as_cut():
    codes = codes_table(row_of(MEETING, 600))
    made = perfect(window_s=5.0, cut="reference", join=())
    assert made(codes)["num_cut"].to_pylist() == [0]
    object.__setattr__(made, "max_tokens", 10)
    assert made(codes)["num_cut"].to_pylist() == [3]
    # Fast speech of 15 letters a second fits by default, however long the window.
    assert Transcribe(checkpoint="", window_s=60.0).most_tokens >= 60 * 15


def test_conversations_are_sessions_unless_windows_are_apart():
    codes = codes_table(row_of(MEETING, 600))
    reference = reference_segments(codes, RATE)
    assert {entry["session_id"] for entry in reference} == {"c0"}
    found = score(reference, [], Conditions(measures=("cpwer",)))
    assert (found.figure("cpwer").value, found.num_sessions, found.num_recordings) == (1.0, 1, 1)
