"""cast, converse, render, encode: who meets, who speaks when, the mixture, its codes."""

import itertools
import json
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from models.codecs.codec import pack_codes
from operators.corpus.annotations import ctm, rttm, seglst, sot, stm
from operators.corpus.cast import Casting, cast_table, plan_casts
from operators.corpus.index import index_utterances
from operators.corpus.manifest import Manifest, corpus_roots
from operators.corpus.sources import read_source, with_roots
from operators.corpus.splits import split_rows
from operators.errors import InputError, UnusableRowError
from operators.schema import AUDIO, CASTS, CONVERSATIONS, UTTERANCES, check_chain
from operators.simulate.converse import Converse, compress_pauses
from operators.simulate.priors import prior_of
from operators.simulate.render import Render
from operators.simulate.rooms import Place
from operators.simulate.signals.flac import to_flac
from operators.simulate.signals.levels import fade_edges
from operators.tokenize.encode import Encode

CASTING = Casting(train_conversations=12, test_conversations=4, max_speakers=2, test_speakers=0.34)


@pytest.fixture
def utterances(corpus):
    return index_utterances([Manifest.parse(str(corpus))])[0]


def simulate(utterances, casting=CASTING, converse=None, seed=0, place=None):
    casts = plan_casts(utterances, split_rows(utterances, casting, seed), casting, seed)
    return (place or Place())((converse or Converse())(cast_table(utterances, casts, seed)))


def made_up(num_speakers, per_speaker, seconds=2.0, rate_hz=16_000):
    """Utterances without audio, which planning does not need."""
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


def test_a_seeded_split_shares_no_speaker_and_a_shared_one_is_reported(utterances):
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
    with pytest.raises(
        InputError, match=r"train split has 4 speaker\(s\), but conversations need 5; lower --casting.max"
    ):
        plan_casts(utterances, split_rows(utterances, casting, 0), casting, 0)


def test_by_default_conversations_have_as_many_speakers_as_a_small_split(utterances):
    casting = replace(CASTING, min_speakers=2, max_speakers=None, train_conversations=40)
    splits = split_rows(utterances, casting, 0)
    sizes = {split: set() for split in ("train", "test")}
    for cast in plan_casts(utterances, splits, casting, 0):
        sizes[cast.split].add(len(cast.speakers))
    assert sizes["train"] == {2, 3, 4}
    few = len(set(utterances["speaker"].take(splits.rows["test"]).to_pylist()))
    assert few < 4
    assert max(sizes["test"]) == few
    with pytest.raises(InputError, match=r"conversations need 5; lower --casting\.min"):
        plan_casts(utterances, splits, replace(casting, min_speakers=5), 0)


def test_stories_keep_their_order_and_unordered_utterances_are_drawn():
    table = made_up(8, 40)
    unordered = table
    for name in ("chapter", "position"):
        column = table.schema.get_field_index(name)
        unordered = unordered.set_column(column, table.schema.field(name), pa.nulls(320, table.schema.field(name).type))
    for rows, consecutive in ((table, True), (unordered, False)):
        casts = plan_casts(rows, split_rows(rows, CASTING, 0), replace(CASTING, max_utterances=4), 0)
        runs = [np.diff(cast.rows[:4]).tolist() == [1, 1, 1] for cast in casts]
        assert all(runs) if consecutive else not any(runs)
        assert len({cast.rows for cast in casts}) == len(casts)


@pytest.mark.parametrize("max_utterances", [3, 8])
def test_an_enrolment_is_an_utterance_that_the_conversation_does_not_hold(utterances, max_utterances):
    casting = replace(CASTING, max_utterances=max_utterances)
    splits = split_rows(utterances, casting, 0)
    plain, enrolled = (plan_casts(utterances, splits, casting, 0, with_enrolments=on) for on in (False, True))
    speaker, split_of = utterances["speaker"].to_pylist(), {r: s for s, rows in splits.rows.items() for r in rows}
    for before, after in zip(plain, enrolled, strict=True):
        assert not before.enrolments
        assert [speaker[row] for row in after.enrolments] == list(after.speakers)
        assert not {*after.enrolments} & {*after.rows}
        assert {split_of[row] for row in after.enrolments} == {after.split}
        # Five utterances each: where all were taken, one is given back.
        assert after.rows == before.rows if max_utterances == 3 else len(after.rows) == 8
    (table,) = (cast_table(utterances, casts, 0) for casts in (enrolled,))
    for one, row in zip(enrolled, table.to_pylist(), strict=True):
        assert [e["utterance_id"] for e in row["enrolments"]] == [
            utterances["utterance_id"][r].as_py() for r in one.enrolments
        ]
    assert not any(cast_table(utterances, plain, 0)["enrolments"].to_pylist())


def test_an_enrolment_is_of_another_recording_where_there_is_one():
    rows = made_up(4, 10).to_pylist()
    for row in rows:  # one long recording of nine utterances, and another one
        number = int(row["utterance_id"][-2:])
        row["audio"] = f"{row['speaker']}-{'other' if number == 4 else 'long'}.wav"
    table = pa.Table.from_pylist(rows, schema=UTTERANCES)
    casting = replace(CASTING, test_speakers=0.5, max_utterances=3)
    for one in plan_casts(table, split_rows(table, casting, 0), casting, 0, with_enrolments=True):
        for who, row in zip(one.speakers, one.enrolments, strict=True):
            heard = {rows[r]["audio"] for r in one.rows if rows[r]["speaker"] == who}
            assert rows[row]["audio"] not in heard or len(heard) == 2


def test_an_enrolment_is_heard_dry_at_the_level_of_turns_and_encoded_alone(corpus, utterances):
    splits, roots = split_rows(utterances, CASTING, 0), corpus_roots([Manifest.parse(str(corpus))])
    casts = plan_casts(utterances, splits, CASTING, 0, with_enrolments=True)[:2]
    talks = Place(room="simulated")(Converse()(cast_table(utterances, casts, 0)))
    audio = Render()(with_roots(talks, roots))
    codes = Encode()(audio.select(AUDIO.names)).to_pylist()
    for row, coded in zip(audio.to_pylist(), codes, strict=True):
        assert [e["speaker"] for e in coded["enrolments"]] == [e["speaker"] for e in row["enrolments"]]
        for one, samples, made in zip(row["enrolments"], row["enrolment_samples"], coded["enrolments"], strict=True):
            heard = np.array(samples, np.float64) / 32768
            assert len(heard) == one["source_num_samples"]
            assert 10 * np.log10(np.mean(heard**2)) == pytest.approx(-26, abs=0.05)
            assert np.corrcoef(heard, read_source(one, roots))[0, 1] > 0.9999
            own = Encode().encode_all([np.array(samples, np.int16)])[0]
            assert pack_codes(own, Encode().spec.bits) == made["codes"]


def test_withdrawing_a_speaker_changes_only_that_speakers_conversations():
    complete = made_up(40, 10)
    fewer = complete.filter(pa.compute.not_equal(complete["speaker"], "s017"))
    casting = Casting(train_conversations=200, test_conversations=20, speakers_per_cohort=1000)
    casts = []
    for table in (complete, fewer):
        names = table["utterance_id"].to_pylist()
        # The split is fixed: drawing the test split again may move one speaker.
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
def test_conversations_keep_their_invariants(seed, speakers, seconds):
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
            # No speaker overlaps themselves, no utterance occurs twice, a chapter keeps its order.
            for turn, following in itertools.pairwise(own):
                assert following["start_sample"] - turn["start_sample"] - turn["num_samples"] >= 1600
                names = turn["utterance_id"], following["utterance_id"]
                if names[0][-2] == names[1][-2] and names[0] < names[1]:
                    assert order[names[0]] < order[names[1]]
            assert len({t["utterance_id"] for t in own}) == len(own)
            assert len({t["gain_db"] for t in own}) == 1
        for before, turn in itertools.pairwise(turns):
            assert turn["offset_samples"] == turn["start_sample"] - before["start_sample"] - before["num_samples"]
            assert (turn["transition"] == "switch_overlap") <= (turn["offset_samples"] < 0)


def test_offsets_follow_the_prior_except_for_the_counted_ones():
    from scipy.stats import kstest

    conversations = simulate(
        made_up(30, 12, 4.0), Casting(train_conversations=800, test_conversations=2), Converse(max_duration_s=200)
    )
    turns = [t for row in conversations.to_pylist() for t in row["turns"]]
    offsets = np.array([t["offset_samples"] / 16_000 for t in turns if t["transition"].startswith("switch")])
    clipped = sum(conversations["num_clipped_offsets"].to_pylist()) / len(offsets)
    wanted = np.array(prior_of("meeting").offset_s)
    distance = kstest(offsets, lambda x: np.interp(x, wanted, np.linspace(0, 1, len(wanted)))).statistic
    assert distance < 0.03
    assert clipped < 0.01


def spoken(num_speakers, per_speaker, seed=0, rate_hz=22_050):
    """Utterances of words with times and pauses between them, without audio."""
    rng = np.random.default_rng(seed)
    table = made_up(num_speakers, per_speaker, rate_hz=rate_hz).to_pylist()
    for row in table:
        at, words = 500, []
        for number in range(int(rng.integers(3, 30))):
            length = int(rate_hz * rng.uniform(0.1, 0.6))
            words.append({"word": f"W{number}'s", "start_sample": at, "num_samples": length})
            at += length + int(rate_hz * (rng.exponential(0.3) if rng.random() < 0.3 else 0))
        row.update(source_start_sample=1000, source_num_samples=at + 700, words=words)
        row.update(text=" ".join(w["word"] for w in words))
    return pa.Table.from_pylist(table, schema=UTTERANCES)


LONG = Casting(train_conversations=30, test_conversations=2, max_speakers=2, max_utterances=30, test_speakers=0.3)


def test_backchannels_are_inside_the_turn_of_a_host_and_from_the_listeners_own_utterances():
    table = spoken(12, 40)
    converse = Converse(backchannels=True, min_turns=30, max_turns=40, max_duration_s=1e4)
    texts = {row["utterance_id"]: row["text"].lower() for row in table.to_pylist()}
    number = 0
    for row in simulate(table, LONG, converse).to_pylist():
        floor = None
        for turn in row["turns"]:
            end = turn["start_sample"] + turn["num_samples"]
            if turn["transition"] != "backchannel":
                floor = turn
                continue
            number += 1
            assert turn["is_part"]
            assert turn["speaker"] != floor["speaker"]
            assert floor["start_sample"] <= turn["start_sample"] < end <= floor["start_sample"] + floor["num_samples"]
            assert turn["offset_samples"] == turn["start_sample"] - floor["start_sample"] - floor["num_samples"]
            assert turn["text_normalized"] in texts[turn["utterance_id"]]
            assert turn["words"][0]["start_sample"] >= turn["start_sample"]
            assert turn["words"][-1]["start_sample"] + turn["words"][-1]["num_samples"] <= end + 2
        by_speaker = {}
        for turn in row["turns"]:
            assert turn["start_sample"] >= by_speaker.get(turn["speaker"], -(10**9)) + 1500
            by_speaker[turn["speaker"]] = turn["start_sample"] + turn["num_samples"]
    assert number > 100


def test_long_utterances_are_cut_between_words_and_no_part_is_repeated_or_out_of_order():
    table = spoken(8, 20, seed=1)
    converse = Converse(cut_above_s=2.0, min_turns=60, max_turns=60, max_duration_s=1e4)
    by_id = {row["utterance_id"]: row for row in table.to_pylist()}
    cut = 0
    for row in simulate(table, LONG, converse).to_pylist():
        parts = {}
        for turn in row["turns"]:
            source = by_id[turn["utterance_id"]]
            begin = turn["source_start_sample"] - source["source_start_sample"]
            assert 0 <= begin < begin + turn["source_num_samples"] <= source["source_num_samples"]
            expected = (turn["source_num_samples"] * 16_000 + 11_025) // 22_050
            assert turn["num_samples"] == expected
            parts.setdefault(turn["utterance_id"], []).append(turn)
            cut += turn["is_part"]
            starts = [w["start_sample"] for w in turn["words"]]
            assert starts == sorted(starts)
        for name, turns in parts.items():
            words = " ".join(t["text"] for t in turns).split()
            assert words == by_id[name]["text"].split()[: len(words)]
            for one, two in itertools.pairwise(turns):
                assert one["source_start_sample"] + one["source_num_samples"] <= two["source_start_sample"]
    assert cut > 100


def test_every_speaker_of_a_cast_has_a_turn():
    casting = replace(CASTING, train_conversations=60, min_speakers=3, max_speakers=3)
    conversations = simulate(made_up(20, 12), casting, Converse(min_turns=4, max_turns=8, max_duration_s=1e3))
    assert {len(row["speakers"]) for row in conversations.to_pylist()} == {3}


def test_pauses_are_compressed_and_never_reordered():
    pauses = np.linspace(0, 30, 500)
    short = compress_pauses(pauses, 1.5)
    assert (np.diff(short) > 0).all()
    assert (short[pauses <= 1.5] == pauses[pauses <= 1.5]).all()
    assert short[-1] < 4
    long, brief = (
        simulate(made_up(20, 12), CASTING, Converse(compress_above_s=above, max_duration_s=1e3)) for above in (0.0, 0.5)
    )
    assert sum(brief["num_samples"].to_pylist()) < sum(long["num_samples"].to_pylist())


def test_parts_are_faded_and_whole_utterances_are_not():
    wave = np.ones(1600, np.float32)
    out = fade_edges(wave, 16_000)
    assert out[0] < 0.01 > out[-1]
    assert (out[80:-80] == 1).all()
    assert (np.diff(out[:80]) > 0).all()


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


def test_words_and_serialized_turns_are_written_in_common_formats():
    conversations = simulate(
        spoken(12, 40), LONG, Converse(backchannels=True, min_turns=6, max_turns=6, max_duration_s=1e3)
    )
    lines = [line.split() for line in ctm(conversations).splitlines()]
    rows = conversations.to_pylist()
    assert len(lines) == sum(len(t["words"]) for row in rows for t in row["turns"])
    for (name, channel), group in itertools.groupby(lines, key=lambda fields: (fields[0], fields[1])):
        starts = [float(fields[2]) for fields in group]
        assert starts == sorted(starts), (name, channel)
    for line, row in zip(sot(conversations).splitlines(), rows, strict=True):
        ways = json.loads(line)
        texts = [t["text_normalized"] for t in row["turns"]]
        assert ways["fifo"].split(" <sc> ") == texts
        assert ways["arrival"].count("[s") == len(texts)
        assert ways["arrival"].startswith("[s0] ")
        assert ways["timed"].count("[S") == len(texts)


def test_a_mixture_is_the_sum_of_its_turns_at_their_levels(corpus, utterances):
    roots = corpus_roots([Manifest.parse(str(corpus))])
    conversations = simulate(utterances, place=Place(noise="none"))
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
    utterances, _ = index_utterances([Manifest.parse(str(manifest))])
    conversations = simulate(utterances)
    audio = Render()(with_roots(conversations, corpus_roots([Manifest.parse(str(manifest))])))
    lengths = [len(samples.values) for samples in audio["samples"]]
    assert lengths == conversations["num_samples"].to_pylist()


def test_clipping_mixtures_are_scaled_and_record_their_scale(corpus, utterances):
    conversations = with_roots(simulate(utterances), corpus_roots([Manifest.parse(str(corpus))]))
    audio = Render(level_dbfs=-10)(conversations)
    scales = np.array(audio["scale"].to_pylist())
    assert (scales < 1).any()
    assert all(np.abs(samples.values.to_numpy()).max() <= 0.99 * 32767 + 1 for samples in audio["samples"])


def test_noise_is_pink_of_unit_power_and_the_same_in_any_length():
    from scipy.signal import welch

    from operators.simulate.signals.noise import pink_noise

    long = pink_noise(16_000 * 70, 0, "talk")
    assert np.array_equal(pink_noise(16_000, 0, "talk"), long[:16_000])
    assert not np.array_equal(pink_noise(16_000, 0, "walk"), long[:16_000])
    assert np.mean(long**2) == pytest.approx(1.0, abs=0.1)
    frequency, density = welch(long, 16_000, nperseg=8192)
    band = (frequency > 40) & (frequency < 6000)
    slope = np.polyfit(np.log(frequency[band]), np.log(density[band]), 1)[0]
    assert slope == pytest.approx(-1.0, abs=0.1)


@pytest.mark.parametrize("fault", ["nan", "silent", "gone", "shorter", "rate"])
def test_unusable_audio_is_named(corpus, utterances, fault):
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


def test_operators_are_pickled_unchanged(tmp_path):
    import pickle

    for operator in (Converse(), Render(), Encode()):
        assert pickle.loads(pickle.dumps(operator)) == operator
