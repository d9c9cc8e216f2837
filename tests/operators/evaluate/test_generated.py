"""Scores of generated recordings: what was made is what was wanted, or is found not to be."""

import json

import numpy as np
import pytest

from operators.errors import InputError
from operators.evaluate.generated.score import GENERATED_MEASURES, Judges, heard, score_generated
from operators.evaluate.generated.speakers import SpeakerEncoder, similarity
from operators.evaluate.generated.timing import timings_of
from operators.evaluate.recognize import words_of
from operators.scoring.compare import compare
from operators.scoring.result import Conditions, GeneratedConditions
from operators.scoring.score import score
from operators.scoring.table import as_json, markdown
from operators.simulate.realism import MEASURES, distance, scorecard, values_of
from operators.simulate.turn_taking import analyze_turns

RATE_HZ = 16_000
PITCHES_HZ = {"ann": 110.0, "bob": 180.0, "cid": 260.0}
TEXTS = ["good morning to you", "how are you", "very well thank you", "see you later then"]


def voice(speaker, length_s=1.0, seed=0):
    """A hum whose harmonics are the speaker's."""
    times = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
    phases = np.random.default_rng(seed).uniform(0, 6, 8)
    tones = [np.sin(2 * np.pi * PITCHES_HZ[speaker] * (n + 1) * times + phase) for n, phase in enumerate(phases)]
    return (0.05 * np.sum(tones, axis=0)).astype(np.float32)


def spectrum(samples, rate_hz):
    """A stand-in for a speaker encoder: mean power by frequency."""
    if not samples.any():
        return np.zeros(257, np.float32)
    frames = samples[: len(samples) // 512 * 512].reshape(-1, 512) * np.hanning(512)
    return np.abs(np.fft.rfft(frames)).mean(axis=0).astype(np.float32)


ENCODER = SpeakerEncoder("spectrum", "e" * 64, spectrum)


class Hears:
    """A recognizer that hears these texts, one after the other, and remembers how long what it heard is."""

    name, digest, longest_s = "stand-in", "stand-in-1", 30.0

    def __init__(self, texts):
        self.texts, self.lengths_s = iter(texts), []

    def recognize(self, stretches, languages):
        self.lengths_s += [len(stretch) / RATE_HZ for stretch in stretches]
        return [next(self.texts) for _ in stretches]


def wanted(**more):
    return [
        {
            "session_id": f"u{n}",
            "speaker": ("ann", "bob")[n % 2],
            "words": text,
            "start_time": 2.0,
            "end_time": 3.0 + n,
            **more,
        }
        for n, text in enumerate(TEXTS)
    ]


def listened(texts=TEXTS, speakers=("ann", "bob", "ann", "bob"), length_s=(1.0, 2.0, 3.0, 4.0), encoder=ENCODER):
    """What is heard in recordings of some lengths by some speakers, against the wanted voices."""
    judges = Judges(Hears(texts), encoder=encoder)
    return [
        heard(f"u{n}", voice(speaker, seconds), RATE_HZ, seconds, judges, voice(("ann", "bob")[n % 2], 1.0 + n))
        for n, (speaker, seconds) in enumerate(zip(speakers, length_s, strict=True))
    ]


def conditions(**more):
    return GeneratedConditions(**{"recordings": "0" * 64, "recognizer": "stand-in", "language": "en", **more})


def test_the_wanted_recording_itself_has_no_errors():
    found = score_generated(wanted(), listened(), conditions())
    assert [figure.measure for figure in found.figures] == list(GENERATED_MEASURES)
    values = {figure.measure: figure.value for figure in found.figures}
    assert values.pop("speaker_similarity") == pytest.approx(1.0)
    assert values.pop("duration_ratio") == 1.0
    assert set(values.values()) == {0.0}
    assert (found.num_sessions, found.left_out) == (4, {})


def test_what_a_recognizer_mishears_is_counted():
    texts = ["Good morning, to you!", "how are we", "very thank you", "see you later then"]
    found = score_generated(wanted(), listened(texts), conditions())
    assert found.figure("wer").counts == {"errors": 2, "substitutions": 1, "deletions": 1, "insertions": 0}
    assert found.figure("wer").value == 2 / 15
    assert 0 < found.figure("cer").value < 2 / 15
    assert [(one.session_id, one.errors) for one in found.worst] == [("u1", 1), ("u2", 1)]


def test_another_voice_is_less_similar():
    own = score_generated(wanted(), listened(), conditions()).figure("speaker_similarity")
    swapped = score_generated(wanted(), listened(speakers=("bob", "ann", "bob", "ann")), conditions())
    one = score_generated(wanted(), listened(speakers=("cid", "bob", "ann", "bob")), conditions())
    assert swapped.figure("speaker_similarity").value < one.figure("speaker_similarity").value < own.value - 0.05
    assert one.figure("speaker_similarity").base == 4


def test_opposite_vectors_are_unlike_and_silence_is_like_nothing():
    signs = SpeakerEncoder("sign", "", lambda samples, rate_hz: samples[:1])
    assert similarity(signs, np.ones(3, np.float32), -np.ones(3, np.float32), RATE_HZ) == -1.0
    entries = [{**one, "similarity": value} for one, value in zip(listened(), (-1.0, -0.9, -1.0, -0.8), strict=True)]
    figure = score_generated(wanted(), entries, conditions()).figure("speaker_similarity")
    assert -1.0 <= figure.low < figure.value < figure.high < 0.0
    assert similarity(ENCODER, np.zeros(RATE_HZ, np.float32), voice("ann"), RATE_HZ) == 0.0


def test_length_is_against_the_reference_in_seconds_as_share_and_as_ratio():
    found = score_generated(wanted(), listened(length_s=(1.5, 1.0, 3.0, 4.0)), conditions())
    assert found.figure("duration_error").value == pytest.approx(1.5 / 4)
    assert found.figure("duration_error_relative").value == pytest.approx(1.5 / 10)
    assert found.figure("duration_ratio").value == pytest.approx(9.5 / 10)
    assert found.figure("duration_error").counts == {"errors": 1.5, "longer_s": 0.5, "shorter_s": 1.0}
    said = score_generated(wanted(audio_s=2.0), listened(length_s=(2.0, 2.0, 2.0, 2.0)), conditions())
    assert said.figure("duration_error").value == 0


def test_a_recording_that_is_missing_is_0_s_long_and_says_nothing():
    found = score_generated(wanted(), listened()[1:], conditions())
    assert found.only_in_reference == 1
    assert found.figure("wer").counts["deletions"] == 4
    assert found.figure("duration_error").counts["shorter_s"] == 1.0
    assert found.figure("speaker_similarity").base == 3
    silent = heard("u0", np.zeros(0, np.float32), RATE_HZ, 0.0, Judges(Hears([]), encoder=ENCODER), voice("ann"))
    assert (silent["words"], silent["similarity"], silent["audio_s"]) == ("", 0.0, 0.0)


def test_what_cannot_be_measured_is_left_out_with_the_reason():
    entries = [heard(f"u{n}", voice("ann"), RATE_HZ, 1.0, Judges()) for n in range(4)]
    untimed = [{key: one[key] for key in ("session_id", "speaker", "words")} for one in wanted()]
    found = score_generated(untimed, entries, conditions(), reasons={"wer": "no recognizer"})
    assert found.figures == ()
    assert found.left_out["wer"] == "no recognizer"
    assert found.left_out["cer"] == "the hypothesis has no words"
    assert found.left_out["speaker_similarity"] == "no recording was compared with a voice"
    assert "neither times nor audio_s" in found.left_out["duration_ratio"]
    with pytest.raises(InputError, match="measure cpwer is none of generated recordings"):
        score_generated(wanted(), entries, conditions(measures=("cpwer",)))


def test_measures_of_recordings_are_taken_of_nothing_else():
    transcripts = [{**one, "speaker": "s0"} for one in wanted()]
    assert not {figure.measure for figure in score(wanted(), transcripts).figures} & set(GENERATED_MEASURES[2:])
    assert set(score(wanted(), transcripts).left_out) == set()
    asked = score(wanted(), transcripts, Conditions(measures=("wer", "duration_error")))
    assert asked.left_out == {"duration_error": "the hypothesis has no recordings; give them with --audio"}


def test_two_systems_are_compared_by_what_was_heard():
    worse = listened(["good", "how", "very", "see"], speakers=("cid",) * 4, length_s=(3.0, 4.0, 5.0, 6.0))
    names = ("wer", "speaker_similarity", "duration_error")
    found = {one.measure: one for one in compare(wanted(), listened(), worse, Conditions(measures=names)).differences}
    assert found["wer"].difference < 0
    assert found["duration_error"].difference == pytest.approx(-2.0)
    assert found["speaker_similarity"].difference > 0.05


def test_intervals_resample_recordings_and_json_says_who_listened():
    numbered = [{**one, "speaker": "0"} for one in wanted()]
    found = score_generated(
        numbered, listened(length_s=(1.5, 1.0, 3.0, 4.5)), conditions(recognizer_digest="stand-in-1")
    )
    figure = found.figure("duration_error")
    assert found.resampled.startswith("4 recordings")
    assert figure.low < figure.value < figure.high
    written = json.loads(as_json(found))
    assert written["conditions"]["recognizer_digest"] == "stand-in-1"
    assert written["conditions"]["normalizer"] == "hubbub-basic-2"
    assert "heard by stand-in (stand-in-1, language en)" in markdown(found)
    single = score_generated(numbered[:1], listened()[:1], conditions())
    assert single.figure("duration_error").low is None


def dialogues(seed, gap_s=0.3, number=6):
    """Dialogues of turns with pauses, overlaps and backchannels: SegLST entries."""
    draw = np.random.default_rng(seed)
    entries = []
    for talk in range(number):
        at = 0.0
        for turn in range(14):
            length = draw.uniform(0.5, 3.0)
            start = max(0.0, at + draw.normal(gap_s, 0.4))
            who = ("ann", "bob")[(turn // 2 + turn) % 2]
            entries.append(entry(f"u{talk}", who, start, start + length))
            if turn % 4 == 0:
                entries.append(entry(f"u{talk}", "cid", start + length / 2, start + length / 2 + 0.2))
            at = start + length
    return entries


def entry(session, speaker, start_s, end_s):
    return {"session_id": session, "speaker": speaker, "words": "yes", "start_time": start_s, "end_time": end_s}


def scored(turns, reference):
    names = sorted({one["session_id"] for one in reference})
    entries = [heard(name, voice("ann"), RATE_HZ, 1.0, Judges()) for name in names]
    return score_generated(reference, entries, conditions(timing="0" * 64), turns=turns)


def test_a_dialogue_with_the_wanted_times_is_at_no_distance():
    reference = dialogues(0)
    found = scored(reference, reference)
    for measure in MEASURES:
        assert (found.figure(f"{measure}_ks").value, found.figure(f"{measure}_w1").value) == (0, 0), measure
    assert found.figure("overlap_share").note == f"wanted {found.figure('overlap_share').value:.1%}"
    assert found.timing["transition_tv"] == 0


def test_timing_is_that_of_the_simulators_scorecard_with_intervals_over_recordings():
    reference, turns = dialogues(0), dialogues(1, gap_s=0.9)
    found = scored(turns, reference)
    made, real = (
        [analyze_turns(name, own) for name, own in sorted(timings_of(side).items())] for side in (turns, reference)
    )
    for measure in MEASURES:
        there = [value for talk in real for value in values_of(measure, talk)]
        known = distance(measure, made, there)
        for name in ("ks", "w1"):
            figure = found.figure(f"{measure}_{name}")
            assert figure.value == pytest.approx(known.ks if name == "ks" else known.w1_s), measure
            assert 0 <= figure.low <= figure.high
            assert figure.num_sessions <= 6
    shares = scorecard(made, real)["simulated"]
    for name in ("silence_share", "overlap_share", "three_speaker_share"):
        assert found.figure(name).value == pytest.approx(shares[name])
    assert found.timing["simulated"]["overlap_share"] == pytest.approx(shares["overlap_share"])
    assert found.figure("offset_ks").value > 0.3
    json.loads(as_json(found))


def test_intervals_of_timing_are_over_recordings():
    reference = dialogues(0)
    varied = scored(dialogues(1, gap_s=0.9), reference)
    one = [{**turn, "session_id": f"u{n}"} for n in range(6) for turn in dialogues(1, gap_s=0.9, number=1)]
    copies = scored(one, reference)
    for name in ("offset_ks", "offset_w1", "segment_ks", "silence_share"):
        assert varied.figure(name).low < varied.figure(name).high, name
        assert copies.figure(name).low == pytest.approx(copies.figure(name).high), name


def test_words_of_a_dialogue_are_compared_whoever_was_to_say_them():
    reference = [{**turn, "words": text} for turn, text in zip(dialogues(0, number=1), TEXTS, strict=False)]
    (said,) = listened([" ".join(one["words"] for one in reference).replace("later", "soon")], ("ann",), (9.0,))
    found = score_generated(reference, [said], conditions())
    assert found.figure("wer").value == 1 / 15
    assert [(one.session_id, one.errors) for one in found.worst] == [("u0", 1)]


def test_timing_that_nobody_gives_or_nobody_wants_is_left_out():
    reference = dialogues(0)
    assert "--turns says who speaks when" in scored((), reference).left_out["timing"]
    elsewhere = [{**one, "session_id": "v"} for one in reference]
    assert "no session of the reference's" in scored(elsewhere, reference).left_out["timing"]
    alone = [one for one in reference if one["speaker"] == "ann"]
    found = scored(alone, reference)
    assert found.left_out["backchannel_ks"] == "there is no backchannel in the generated recordings"
    assert "timing" not in score_generated(wanted(), listened(), conditions()).left_out


def test_long_recordings_are_cut_where_it_is_quiet_and_digital_silence_is_not_heard():
    wav = np.concatenate([voice("ann", 25.0), np.zeros(RATE_HZ, np.float32), voice("bob", 20.0)])
    recognizer = Hears(["good morning", "to you"])
    assert words_of(recognizer, (wav * 32768).astype(np.int16), RATE_HZ, "en") == "good morning to you"
    first, second = recognizer.lengths_s
    assert 25.0 <= first <= 26.0
    assert first + second == 46.0
    assert words_of(Hears(["hallucinated"] * 9), np.zeros(40 * RATE_HZ, np.int16), RATE_HZ, "en") == ""
