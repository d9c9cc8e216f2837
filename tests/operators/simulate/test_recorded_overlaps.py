"""The judge: utterances of test speakers at AMI's own times, with the overlap that is asked for, and nothing drawn."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from operators.corpus.formats import json_lines
from operators.corpus.segments import Segment, read_rttm
from operators.simulate.frozen import RATE_HZ, Spoken, rendered, spoken_by
from operators.simulate.priors import prior_of
from operators.simulate.priors.fit import fit
from operators.simulate.turn_taking import analyze_turns, merge_segments
from pipelines.cli.score import compare
from tests.bench.real import overlaps
from tests.bench.real.kinds import write_list
from tests.bench.real.overlaps import TOLERANCE_S, Window, closest, filled, reference, singles, windows_of


@pytest.fixture(scope="module")
def corpus(shared):
    return shared / "data/speechocean762"


@pytest.fixture(scope="module")
def spoken(corpus):
    return spoken_by(corpus)


@pytest.fixture(scope="module")
def meetings(shared):
    return read_rttm([shared / "data/ami_rttm/dev.rttm"])


@pytest.fixture(scope="module")
def judge(meetings, spoken):
    return overlaps.overlaps(meetings, spoken)


def utterance(name, seconds, speaker="ann"):
    row = {"id": name, "speaker": speaker, "audio": f"{name}.flac", "gender": "f", "text": "A WORD"}
    return Spoken(row, 0, round(seconds * RATE_HZ), 0.1, 0.5)


# -------------------------------------------------------------------------------------------------- windows and fitting


def test_a_window_starts_in_silence_has_two_people_and_the_overlap_wanted():
    turns = [
        Segment(10, 13, "a"),
        Segment(12, 15, "b"),
        Segment(16, 18, "a"),
        Segment(40, 46, "a"),
        Segment(41, 47, "b"),
    ]
    (found,) = windows_of("m", turns)
    # 5 s with 1 of overlap are 20 %; 8 s with 1 of overlap are fewer, and 7 s with 5 of overlap more.
    assert [(one.start_s, one.end_s, one.is_whole) for one in found] == [(10, 15, True)]
    assert found[0].turns == ((0, 3 * RATE_HZ, "a"), (2 * RATE_HZ, 5 * RATE_HZ, "b"))
    assert not list(windows_of("m", [*turns[:2], Segment(14, 14.5, "c")]))
    # A third person may come after the window; a turn that the end cuts counts as long as its part.
    (cut,) = windows_of("m", [Segment(10, 15, "a"), Segment(13, 30, "b"), Segment(17, 18, "c")])
    assert [(one.end_s, one.is_whole) for one in cut] == [(15, False), (17, False)]


def test_the_closest_utterances_are_taken_and_those_out_of_tolerance_never():
    turns = ((0, 2 * RATE_HZ, "a"), (3 * RATE_HZ, 6 * RATE_HZ, "a"))
    own = [utterance("short", 1.9), utterance("long", 3.1), utterance("other", 2.15)]
    cost, said = closest(turns, own, Counter())
    assert [one.row["id"] for one in said] == ["short", "long"]
    assert cost == pytest.approx(0.2 * RATE_HZ)
    # One that was used before gives way to one that is nearly as close.
    assert [one.row["id"] for one in closest(turns, own, Counter(short=2))[1]] == ["other", "long"]
    assert closest(turns, [utterance("x", 1.9), utterance("y", 3 + TOLERANCE_S + 0.01)], Counter()) is None
    # Nobody speaks over themselves.
    assert closest(((0, 32_000, "a"), (33_000, 65_000, "a")), [utterance("x", 2.1), utterance("y", 2.0)], Counter())
    assert (
        closest(((0, 32_000, "a"), (32_100, 64_100, "a")), [utterance("x", 2.1), utterance("y", 2.2)], Counter())
        is None
    )


def test_speakers_take_turns_at_being_used():
    window = Window("m", 0.0, ((0, 3 * RATE_HZ, "a"), (2 * RATE_HZ, 5 * RATE_HZ, "b")), is_whole=True)
    corpus = {name: [utterance(f"{name}-1", 3.0, name), utterance(f"{name}-2", 3.0, name)] for name in "wxyz"}
    uses = Counter()
    rows = [filled(window, corpus, uses) for _ in range(4)]
    assert Counter(turn["speaker"] for row in rows for turn in row["turns"]) == dict.fromkeys("wxyz", 2)
    assert len({turn["utterance_id"] for row in rows for turn in row["turns"]}) == 8
    assert filled(replace(window, turns=(*window.turns[:1], (2 * RATE_HZ, 9 * RATE_HZ, "b"))), corpus, uses) is None


# ----------------------------------------------------------------------------------------------------------- the judge


def test_every_start_is_amis_to_the_sample_and_no_turn_between_is_left_out(judge, meetings):
    assert len(judge.rows) >= 64
    assert judge.num_windows >= judge.num_whole > 0
    for row in judge.rows:
        segments = merge_segments(meetings[row["columns"]["meeting"]])
        raw_s = {one.start_s for one in meetings[row["columns"]["meeting"]]}
        first_s = row["columns"]["meeting_start_s"]
        number = next(n for n, one in enumerate(segments) if one.start_s == first_s)
        own = segments[number : number + len(row["turns"])]
        assert all(one.end_s <= first_s for one in segments[:number])  # it starts in silence
        people = {}
        for turn, one in zip(row["turns"], own, strict=True):
            assert one.start_s in raw_s
            assert turn["start_sample"] == round(100 * (one.start_s - first_s)) * RATE_HZ // 100
            assert people.setdefault(turn["speaker"], one.speaker) == one.speaker
            # No longer than AMI's turn, and shorter only where the window's end cuts that.
            assert turn["source_num_samples"] / RATE_HZ <= one.end_s - one.start_s + TOLERANCE_S + 1e-6
        assert len(set(people.values())) == len(people) == 2


def test_mixtures_have_the_length_and_overlap_asked_for(judge):
    for row in judge.rows:
        assert 5 * RATE_HZ <= row["num_samples"] <= 12 * RATE_HZ
        talking = {turn["speaker"]: np.zeros(row["num_samples"], np.int8) for turn in row["turns"]}
        for turn in row["turns"]:
            talking[turn["speaker"]][turn["start_sample"] :][: turn["source_num_samples"]] += 1
        assert max(one.max() for one in talking.values()) == 1  # nobody speaks over themselves
        active = sum(talking.values())
        assert 0.2 <= (active == 2).sum() / (active > 0).sum() <= 0.4
    pairs = Counter(turn["speaker"] for row in judge.rows for turn in row["turns"])
    assert len(pairs) == 25


def test_only_test_speakers_are_heard_and_every_test_utterance_is_heard_alone(judge, spoken, corpus):
    split_of = {row["speaker"]: row["split"] for row in json_lines(corpus / "manifest.jsonl")}
    alone = singles(spoken)
    assert {split_of[turn["speaker"]] for row in [*judge.rows, *alone] for turn in row["turns"]} == {"test"}
    wanted = sorted(row["id"] for row in json_lines(corpus / "manifest.jsonl") if row["split"] == "test")
    assert sorted(row["turns"][0]["utterance_id"] for row in alone) == wanted


def test_the_judge_does_not_depend_on_the_order_of_what_it_is_made_of(judge, meetings, spoken):
    names = sorted(meetings)[:3]
    some = {name: meetings[name][::-1] for name in reversed(names)}
    again = overlaps.overlaps(some, dict(reversed(spoken.items())))
    # Meetings come one after the other, so that the first ones' mixtures are those of all.
    assert again.rows == judge.rows[: len(again.rows)]
    assert {row["columns"]["meeting"] for row in again.rows} == set(names)


def test_mixtures_are_rendered_from_the_list(judge, corpus, tmp_path):
    rows = judge.rows[:3]
    write_list(rows, tmp_path / "list.jsonl.gz")
    mixtures = dict(rendered(tmp_path / "list.jsonl.gz", corpus))
    for row in rows:
        samples = mixtures[row["conversation_id"]]
        assert len(samples) == row["num_samples"]
        last = row["turns"][-1]
        assert np.abs(samples[last["start_sample"] :][: last["source_num_samples"]].astype(int)).max() > 1000


def test_the_prior_was_fitted_to_other_meetings_of_other_people(shared, meetings):
    train = read_rttm([shared / "data/ami_rttm/train.rttm"])
    assert not set(train) & set(meetings)
    assert not {s.speaker for one in train.values() for s in one} & {
        s.speaker for one in meetings.values() for s in one
    }
    preset = prior_of("meeting")
    fitted = fit(preset.name, preset.source, [analyze_turns(name, own) for name, own in sorted(train.items())])
    assert fitted == preset  # number for number


def test_one_call_gives_the_paired_interval_of_a_difference(judge, tmp_path):
    """Two systems that share most of their errors: the difference is known far better than either rate."""
    truth = reference(judge.rows)
    draw = np.random.default_rng(0)
    hard = draw.random(len(truth)) < 0.3
    weak = draw.random(len(truth)) < 0.15
    for name, wrong in (("reference", np.zeros(len(truth), bool)), ("a", hard | weak), ("b", hard)):
        entries = [{**one, "words": "" if lost else one["words"]} for one, lost in zip(truth, wrong, strict=True)]
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    compare(
        [*(str(tmp_path / f"{n}.json") for n in ("reference", "a", "b")), "--measures", "cpwer", f"--json={tmp_path}/c"]
    )
    found = json.loads((tmp_path / "c").read_text())
    (one,) = found["differences"]
    words = np.array([len(entry["words"].split()) for entry in truth])
    assert one["difference"] == pytest.approx(words[weak & ~hard].sum() / words.sum())
    assert 0 < one["low"] < one["difference"] < one["high"]
    assert found["resampled"].startswith("25 speakers")
    compare([*(str(tmp_path / f"{n}.json") for n in ("reference", "a", "reference")), f"--json={tmp_path}/d"])
    alone = next(d for d in json.loads((tmp_path / "d").read_text())["differences"] if d["measure"] == "cpwer")
    assert one["high"] - one["low"] < 0.8 * (alone["high"] - alone["low"])
