"""cast, converse, render, encode: who meets whom, who speaks when, what the room hears, its codes."""

import itertools
import json
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.annotations import rttm, seglst, stm
from operators.cast import Casting, cast_table, plan_casts, split_rows
from operators.converse import Converse, turn_taking_prior
from operators.encode import Encode
from operators.errors import InputError, UnusableRowError
from operators.manifest import Manifest, corpus_roots, index
from operators.render import Render, read_source, to_flac, with_roots
from operators.schema import AUDIO, CASTS, CONVERSATIONS, UTTERANCES, check_chain

CASTING = Casting(train_conversations=12, test_conversations=4, max_speakers=2, test_speakers=0.34)


@pytest.fixture
def utterances(corpus):
    return index([Manifest.parse(str(corpus))])[0]


def simulate(utterances, casting=CASTING, converse=None, seed=0):
    casts = plan_casts(utterances, split_rows(utterances, casting, seed), casting, seed)
    return (converse or Converse())(cast_table(utterances, casts, seed))


def made_up(num_speakers, per_speaker, seconds=2.0, rate_hz=16_000):
    """Utterances without audio: planning needs none."""
    rows = [
        {
            "utterance_id": f"s{s:03d}-{u:02d}",
            "corpus": "c",
            "audio": f"{s}-{u}.wav",
            "byte_offset": 0,
            "byte_length": 0,
            "channel": 0,
            "source_rate_hz": rate_hz,
            "source_start_sample": 0,
            "source_num_samples": int(rate_hz * seconds * (0.5 + (s * 7 + u * 13) % 10 / 10)),
            "fingerprint": "",
            "speaker": f"s{s:03d}",
            "split": None,
            "text": "a",
            "text_normalized": "a",
            "chapter": str(u // 5),
            "position": u,
            "words": [],
            "user_columns": "{}",
        }
        for s in range(num_speakers)
        for u in range(per_speaker)
    ]
    return pa.Table.from_pylist(rows, schema=UTTERANCES)


def test_the_chain_of_operators_is_checked_before_work_starts():
    check_chain(CASTS, Converse(), Render(), Encode())
    with pytest.raises(TypeError, match="Render reads"):
        check_chain(CASTS, Render())


def test_a_seeded_split_shares_no_speaker_and_a_shared_one_says_so(utterances):
    splits = split_rows(utterances, CASTING, seed=0)
    assert (splits.source, splits.shared_speakers) == ("speaker", 0)
    speakers = utterances["speaker"].to_pylist()
    sides = [{speakers[i] for i in splits.rows[name]} for name in ("train", "test")]
    assert len(sides[0]) == 4
    assert len(sides[1]) == 2
    named = utterances.set_column(utterances.schema.get_field_index("split"), "split", pa.array(["train", "test"] * 15))
    shared = split_rows(named, CASTING, seed=0)
    assert (shared.source, shared.shared_speakers) == ("manifest", 6)
    assert "SHARES 6 speakers" in shared.describe()
    with pytest.raises(InputError, match="name no train split"):
        split_rows(utterances, replace(CASTING, split="manifest"), seed=0)


def test_too_few_speakers_are_named(utterances):
    casting = replace(CASTING, max_speakers=5)
    with pytest.raises(InputError, match=r"train split has 4 speaker\(s\), but conversations want up to 5"):
        plan_casts(utterances, split_rows(utterances, casting, 0), casting, 0)


def test_withdrawing_a_speaker_changes_only_the_conversations_that_hold_the_voice():
    everybody = made_up(40, 10)
    fewer = everybody.filter(pa.compute.not_equal(everybody["speaker"], "s017"))
    casting = Casting(train_conversations=200, test_conversations=20, speakers_per_cohort=1000)
    casts = []
    for table in (everybody, fewer):
        names = table["utterance_id"].to_pylist()
        # The split is held fixed: who is drawn for the test split may move one speaker.
        planned = plan_casts(table, split_rows(_with_split(table), replace(casting, split="manifest"), 0), casting, 0)
        casts.append({c.conversation_id: (c.speakers, [names[row] for row in c.rows]) for c in planned})
    before, after = casts
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if "s017" in before[name][0]}
    assert 0 < len(changed) < 40


def _with_split(table):
    split = ["test" if int(speaker[1:]) % 5 == 0 else "train" for speaker in table["speaker"].to_pylist()]
    return table.set_column(table.schema.get_field_index("split"), "split", pa.array(split))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.floats(0.3, 6.0))
def test_conversations_keep_their_promises(seed, speakers, seconds):
    casting = Casting(train_conversations=6, test_conversations=2, max_speakers=speakers)
    table = made_up(20, 12, seconds)
    converse = Converse(max_duration_s=20.0)
    conversations = simulate(table, casting, converse, seed)
    order = {name: i for i, name in enumerate(table["utterance_id"].to_pylist())}
    for row in conversations.to_pylist():
        turns = row["turns"]
        assert 1 <= len(turns) <= converse.max_turns
        assert row["num_samples"] >= max(t["start_sample"] + t["num_samples"] for t in turns)
        assert row["num_samples"] <= (converse.max_duration_s + 0.21) * row["sample_rate_hz"] or len(turns) == 1
        assert [t["start_sample"] for t in turns] == sorted(t["start_sample"] for t in turns)
        assert row["speakers"] == list(dict.fromkeys(t["speaker"] for t in turns))
        for speaker in row["speakers"]:
            own = [t for t in turns if t["speaker"] == speaker]
            # Nobody overlaps themselves, nothing is said twice, a chapter stays in its order.
            for one, two in itertools.pairwise(own):
                assert two["start_sample"] - one["start_sample"] - one["num_samples"] >= 1600
                if one["utterance_id"][-2] == two["utterance_id"][-2] and one["utterance_id"] < two["utterance_id"]:
                    assert order[one["utterance_id"]] < order[two["utterance_id"]]
            assert len({t["utterance_id"] for t in own}) == len(own)
            assert len({t["gain_db"] for t in own}) == 1
        for before, turn in itertools.pairwise(turns):
            assert turn["offset_samples"] == turn["start_sample"] - before["start_sample"] - before["num_samples"]
            assert (turn["transition"] == "switch_overlap") <= (turn["offset_samples"] < 0)


def test_offsets_follow_the_prior_but_for_the_counted_ones():
    from scipy.stats import kstest

    conversations = simulate(
        made_up(30, 12, 4.0), Casting(train_conversations=800, test_conversations=2), Converse(max_duration_s=200)
    )
    turns = [t for row in conversations.to_pylist() for t in row["turns"]]
    offsets = np.array([t["offset_samples"] / 16_000 for t in turns if t["transition"].startswith("switch")])
    clipped = sum(conversations["num_clipped_offsets"].to_pylist()) / len(offsets)
    prior = turn_taking_prior("meeting")
    distance = kstest(offsets, lambda x: np.interp(x, prior["fto"], prior["levels"])).statistic
    assert distance < 0.03 + clipped
    assert clipped < 0.1


def test_conversations_do_not_depend_on_how_casts_are_batched(utterances):
    casts = cast_table(utterances, plan_casts(utterances, split_rows(utterances, CASTING, 0), CASTING, 0), 0)
    whole = Converse()(casts)
    parts = pa.concat_tables([Converse()(casts.slice(i, 1)) for i in reversed(range(casts.num_rows))])
    assert parts.sort_by("conversation_id").equals(whole.sort_by("conversation_id"))
    assert whole.schema.equals(CONVERSATIONS)


def test_truth_files_agree_with_the_turns_and_score_zero_against_themselves(utterances, tmp_path):
    import io

    import meeteval

    conversations = simulate(utterances)
    files = {}
    for name, text in (
        ("a.rttm", rttm(conversations)),
        ("a.stm", stm(conversations)),
        ("a.json", seglst(conversations)),
    ):
        (tmp_path / name).write_text(text)
        files[name] = meeteval.io.load(str(tmp_path / name))
    number = sum(len(row["turns"]) for row in conversations.to_pylist())
    assert [len(file) for file in files.values()] == [number] * 3
    scores = meeteval.wer.cpwer(files["a.stm"], files["a.json"])
    assert sum(score.errors for score in scores.values()) == 0
    first = conversations.to_pylist()[0]
    fields = io.StringIO(rttm(conversations)).readline().split()
    assert round(float(fields[3]) * 16_000) == first["turns"][0]["start_sample"]
    assert round(float(fields[4]) * 16_000) == first["turns"][0]["num_samples"]


def test_a_mixture_is_the_sum_of_its_turns_at_their_levels(corpus, utterances):
    roots = corpus_roots([Manifest.parse(str(corpus))])
    conversations = simulate(utterances, converse=Converse(noise=False))
    audio = Render()(with_roots(conversations, roots))
    assert audio.schema.equals(AUDIO, check_metadata=False)
    row = conversations.to_pylist()[0]
    expected = np.zeros(row["num_samples"])
    for turn in row["turns"]:
        wav = read_source(turn, roots).astype(np.float64)
        level = 10 ** ((-26 + turn["gain_db"]) / 20)
        expected[turn["start_sample"] : turn["start_sample"] + len(wav)] += wav * level / np.sqrt(np.mean(wav**2))
    samples = audio["samples"][0].values.to_numpy()
    assert audio["scale"][0].as_py() == 1.0
    assert np.abs(samples / 32767 - expected).max() <= 1.01 / 32767


def test_samples_do_not_depend_on_the_batch_and_flac_keeps_them(corpus, utterances):
    roots = corpus_roots([Manifest.parse(str(corpus))])
    conversations = with_roots(simulate(utterances).slice(0, 4), roots)
    whole = Render()(conversations)
    for i in range(4):
        assert Render()(conversations.slice(i, 1))["samples"][0] == whole["samples"][i]
    flac = to_flac(whole)
    import io

    read, rate_hz = soundfile.read(io.BytesIO(flac["flac"][2].as_py()), dtype="int16")
    assert rate_hz == 16_000
    assert np.array_equal(read, whole["samples"][2].values.to_numpy())


def test_other_rates_are_resampled_to_the_promised_length(tmp_path):
    from tests.conftest import write_corpus

    manifest = write_corpus(tmp_path / "c22", rate_hz=22_050)
    utterances, _ = index([Manifest.parse(str(manifest))])
    conversations = simulate(utterances)
    audio = Render()(with_roots(conversations, corpus_roots([Manifest.parse(str(manifest))])))
    lengths = [len(samples.values) for samples in audio["samples"]]
    assert lengths == conversations["num_samples"].to_pylist()


def test_clipping_mixtures_are_scaled_and_say_so(corpus, utterances):
    conversations = with_roots(simulate(utterances), corpus_roots([Manifest.parse(str(corpus))]))
    audio = Render(level_dbfs=-10)(conversations)
    scales = np.array(audio["scale"].to_pylist())
    assert (scales < 1).any()
    assert all(np.abs(samples.values.to_numpy()).max() <= 0.99 * 32767 + 1 for samples in audio["samples"])


def test_noise_is_pink_of_unit_power_and_the_same_in_any_length():
    from scipy.signal import welch

    from operators.render import pink_noise

    long = pink_noise(16_000 * 70, 0, "talk")
    assert np.array_equal(pink_noise(16_000, 0, "talk"), long[:16_000])
    assert not np.array_equal(pink_noise(16_000, 0, "walk"), long[:16_000])
    assert np.mean(long**2) == pytest.approx(1.0, abs=0.1)
    frequency, density = welch(long, 16_000, nperseg=8192)
    band = (frequency > 40) & (frequency < 6000)
    slope = np.polyfit(np.log(frequency[band]), np.log(density[band]), 1)[0]
    assert slope == pytest.approx(-1.0, abs=0.1)


@pytest.mark.parametrize("fault", ["nan", "silent", "gone", "shorter", "rate"])
def test_audio_that_cannot_be_mixed_is_named(corpus, utterances, fault):
    conversations = simulate(utterances)
    turn = conversations.to_pylist()[0]["turns"][0]
    path = corpus.parent / turn["audio"]
    length = turn["source_num_samples"]
    wav = {"nan": np.full(length, np.nan), "silent": np.zeros(length), "shorter": np.ones(10)}.get(
        fault, np.ones(length)
    )
    if fault == "gone":
        path.unlink()
    else:
        soundfile.write(path, wav, 8000 if fault == "rate" else 16_000, subtype="FLOAT")
    with pytest.raises(UnusableRowError, match=turn["utterance_id"]):
        Render()(with_roots(conversations.slice(0, 1), corpus_roots([Manifest.parse(str(corpus))])))


def test_codes_do_not_depend_on_the_batch_and_frames_cover_the_turns(corpus, utterances):
    roots = corpus_roots([Manifest.parse(str(corpus))])
    audio = Render()(with_roots(simulate(utterances).slice(0, 5), roots))
    encode = Encode()
    whole = encode(audio)
    for i in range(5):
        assert encode(audio.slice(i, 1)).to_pylist()[0] == whole.to_pylist()[i]
    for mixture, row in zip(audio.to_pylist(), whole.to_pylist(), strict=True):
        assert row["num_frames"] == encode.loaded.num_frames(len(mixture["samples"]))
        for turn, frames in zip(mixture["turns"], row["turns"], strict=True):
            assert frames["start_frame"] * 400 <= turn["start_sample"] < (frames["start_frame"] + 1) * 400
            end = (frames["start_frame"] + frames["num_frames"]) * 400
            assert end - 400 < turn["start_sample"] + turn["num_samples"] <= end
    assert json.loads(json.dumps(asdict(encode.spec)))["bits"] == 4


def test_operators_travel_to_workers(tmp_path):
    import pickle

    for operator in (Converse(), Render(), Encode()):
        assert pickle.loads(pickle.dumps(operator)) == operator
