"""Rooms, responses, noise and stems: what the microphones receive follows from the geometry."""

import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import scipy.signal
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.corpus.cast import Casting, cast_table, plan_casts
from operators.corpus.index import index_utterances
from operators.corpus.manifest import Manifest, corpus_roots
from operators.corpus.sounds import list_sounds, read_sound
from operators.corpus.sources import with_roots
from operators.corpus.splits import split_rows
from operators.errors import InputError, UnusableRowError
from operators.schema import CONVERSATIONS
from operators.simulate.converse import Converse
from operators.simulate.render import Render
from operators.simulate.rooms import (
    IMAGE_ORDER,
    LEAD_SAMPLES,
    SPEED_OF_SOUND,
    Geometry,
    Place,
    plausibility,
    responses,
    simulated_rir,
)
from operators.simulate.signals.convolution import PlacedSignal, convolve
from operators.simulate.signals.flac import to_flac
from operators.simulate.signals.noise import loop
from operators.tokenize.encode import Encode

CASTING = Casting(train_conversations=12, test_conversations=4, max_speakers=2, test_speakers=0.34)
ROOM = Geometry((6000, 5000, 3000), 500, ((3000, 2500, 800), (3050, 2500, 800)), 16_000)
SEAT = (1500, 3500, 1250)


@pytest.fixture
def plain(corpus):
    utterances = index_utterances([Manifest.parse(str(corpus))])[0]
    casts = plan_casts(utterances, split_rows(utterances, CASTING, 0), CASTING, 0)
    return Converse()(cast_table(utterances, casts, 0))


@pytest.fixture
def roots(corpus):
    return corpus_roots([Manifest.parse(str(corpus))])


def render(conversations, roots, **options):
    return Render(**options)(with_roots(conversations, roots))


def test_a_response_has_the_direct_sound_the_decay_and_the_delays_of_its_room():
    found = simulated_rir(ROOM, SEAT)
    assert found.shape == (2, LEAD_SAMPLES + 8000)
    assert np.argmax(np.abs(found[0])) == LEAD_SAMPLES
    # Delays between microphones are kept: the second is farther away.
    away = [np.linalg.norm(np.array(SEAT) - np.array(m)) / 1000 for m in ROOM.microphones_mm]
    assert np.argmax(np.abs(found[1])) - LEAD_SAMPLES == round((away[1] - away[0]) / SPEED_OF_SOUND * 16_000)
    direct = found[0][LEAD_SAMPLES - 20 : LEAD_SAMPLES + 20].astype(float)  # before any reflection
    assert np.sqrt(np.sum(direct**2)) == pytest.approx(1 / away[0], rel=0.05)
    decay = 10 * np.log10(np.cumsum(found[0][::-1].astype(float) ** 2)[::-1])
    decay -= decay[0]
    from_5, to_35 = np.argmax(decay < -5), np.argmax(decay < -35)
    assert 2 * (to_35 - from_5) / 16_000 == pytest.approx(0.5, rel=0.1)


def test_the_diffuse_tail_continues_at_the_level_of_all_images():
    import pyroomacoustics

    size, t60 = np.array(ROOM.size_mm) / 1000, 0.5
    surface = 2 * (size[0] * size[1] + size[1] * size[2] + size[0] * size[2])
    absorption = 1 - np.exp(-24 * np.log(10) * size.prod() / (SPEED_OF_SOUND * surface * t60))
    material = pyroomacoustics.Material(absorption)
    room = pyroomacoustics.ShoeBox(size, fs=16_000, materials=material, max_order=40, air_absorption=False)
    room.add_source(np.array(SEAT) / 1000)
    room.add_microphone(np.array(ROOM.microphones_mm[0]) / 1000)
    room.compute_rir()
    complete_rir = room.rir[0][0]
    ours = simulated_rir(ROOM, SEAT)[0]
    skip = round(np.linalg.norm(np.array(SEAT) - np.array(ROOM.microphones_mm[0])) / 1000 / SPEED_OF_SOUND * 16_000)
    complete = int(IMAGE_ORDER * size.min() / SPEED_OF_SOUND * 16_000) - skip  # where the tail takes over
    early = slice(LEAD_SAMPLES, LEAD_SAMPLES + complete - 200)
    # Below 200 Hz the library's own high-pass depends on later images, and differs.
    high = scipy.signal.butter(4, 200, "highpass", fs=16_000, output="sos")
    one, other = (scipy.signal.sosfilt(high, x) for x in (ours, complete_rir[skip:]))
    assert np.allclose(one[early], other[40:][: complete - 200], atol=0.01 * np.abs(complete_rir).max())
    late = slice(complete + 200, complete + 1000)
    energy = [float(np.sum(x**2)) for x in (ours[LEAD_SAMPLES:][late], complete_rir[skip + 40 :][late])]
    assert 10 * np.log10(energy[0] / energy[1]) == pytest.approx(0, abs=2.0)


def test_a_response_does_not_depend_on_the_number_of_cores(monkeypatch):
    import pyroomacoustics

    constants = pyroomacoustics.constants
    before, set_one = simulated_rir(ROOM, SEAT), constants.set
    try:
        for cores in (2, 7):
            set_one("num_threads", cores)
            assert np.array_equal(simulated_rir(ROOM, SEAT), before)
        # Without that, it would.
        monkeypatch.setattr(constants, "set", lambda *_: None)
        set_one("num_threads", 7)
        assert not np.array_equal(simulated_rir(ROOM, SEAT), before)
    finally:
        set_one("num_threads", 1)


def test_a_plausible_room_scores_higher_than_an_implausible_one():
    size, t60 = np.array([[5.0, 4.0, 2.7]]), np.array([0.35])
    microphone = np.array([[2.5, 2.0, 0.8]])
    round_a_table = np.array([[[1.5, 2.0, 1.25], [3.5, 2.0, 1.25]]])
    good = plausibility(size, t60, microphone, round_a_table)
    on_a_lap = np.array([[[1.5, 2.0, 1.25], [1.6, 2.0, 1.25]]])
    far_off = np.array([[[0.5, 0.5, 1.25], [4.5, 3.5, 1.25]]])
    standing = round_a_table + np.array([0, 0, 0.6])
    for worse in (on_a_lap, far_off, standing):
        assert plausibility(size, t60, microphone, worse) < good
    assert plausibility(size, np.array([1.5]), microphone, round_a_table) < good


def test_temperature_ranges_from_the_most_plausible_room_to_any(plain):
    scores = [
        np.mean([row["room"]["plausibility"] for row in Place(room="simulated", temperature=t)(plain).to_pylist()])
        for t in (1e-6, 1.0, 1e6)
    ]
    assert scores[0] > scores[1] > scores[2]


def test_each_conversation_has_one_room_and_each_speaker_one_seat(plain):
    placed = Place(room="simulated", num_microphones=3)(plain)
    placed.validate(full=True)
    assert placed.schema.equals(CONVERSATIONS, check_metadata=False)
    for row in placed.to_pylist():
        seats = {seat["speaker"]: seat for seat in row["room"]["seats"]}
        assert set(seats) == set(row["speakers"])
        assert {(t["speaker"], t["rir_id"]) for t in row["turns"]} == {(s, seat["rir_id"]) for s, seat in seats.items()}
        size = np.array(row["room"]["size_m"])
        for seat in seats.values():
            assert (np.array(seat["position_m"]) > 0.4).all()
            assert (np.array(seat["position_m"])[:2] < size[:2] - 0.4).all()
        assert len(row["room"]["microphones_m"]) == 3
    assert len({row["room"]["room_id"] for row in placed.to_pylist()}) == placed.num_rows


def test_rendered_audio_does_not_depend_on_batch_or_order(plain, roots):
    place = Place(room="simulated")
    whole = render(place(plain).slice(0, 5), roots, stems="both")
    for i in (3, 0, 4):
        alone = render(place(plain.slice(i, 1)), roots, stems="both")
        assert alone.to_pylist()[0] == whole.to_pylist()[i]


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 90_000), min_size=1, max_size=6),
    taps=st.sampled_from([1, 40, 9000]),
    speakers=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_convolution_in_blocks_equals_convolution_of_each_turn(lengths, taps, speakers, seed):
    rng = np.random.default_rng(seed)
    rirs = rng.normal(0, 1, (speakers, 2, taps)).astype(np.float32) * np.exp(-np.arange(taps) / 1500).astype(np.float32)
    starts = np.sort(rng.integers(0, 700_000, len(lengths)))
    number = int(max(s + n for s, n in zip(starts, lengths, strict=True))) + 500
    signals = [
        PlacedSignal(int(rng.integers(speakers)), int(start), rng.normal(0, 0.1, length).astype(np.float32))
        for start, length in zip(starts, lengths, strict=True)
    ]
    expected = np.zeros((speakers, 2, number + taps))
    for signal in signals:
        for m in range(2):
            wet = scipy.signal.oaconvolve(signal.samples.astype(float), rirs[signal.speaker, m].astype(float))
            expected[signal.speaker, m, signal.start : signal.start + len(wet)] += wet
    apart = convolve(signals, rirs, number, apart=True)
    together = convolve(signals, rirs, number)
    peak = np.abs(expected).max()
    assert np.abs(apart - expected[:, :, :number]).max() < 1e-5 * peak
    assert np.abs(together[0] - expected[:, :, :number].sum(0)).max() < 1e-5 * max(peak, np.abs(expected.sum(0)).max())


def test_stems_add_up_to_the_mixture_and_anechoic_ones_are_without_the_room(plain, roots):
    placed = Place(room="simulated", noise="none")(plain)
    both = render(placed, roots, stems="both")
    dry = render(Place(noise="none")(plain), roots, stems="anechoic")
    for i in range(4):
        stems = both["stems"][i].as_py()
        wet = np.sum([s["samples"] for s in stems if s["kind"] == "reverberant"], axis=0)
        mixture = np.array(both["samples"][i].as_py())
        assert np.abs(wet - mixture).max() <= 2  # each stem is rounded
        without = {s["speaker"]: s["samples"] for s in stems if s["kind"] == "anechoic"}
        factor = both["scale"][i].as_py() / dry["scale"][i].as_py()
        for s in dry["stems"][i].as_py():
            assert np.abs(np.array(s["samples"]) * factor - without[s["speaker"]]).max() <= 1.5
    # Requesting stems changes no mixture.
    assert render(placed, roots)["samples"].to_pylist() == both["samples"].to_pylist()


def test_several_microphones_are_kept_and_the_first_is_the_mixture(plain, roots):
    placed = Place(room="simulated", num_microphones=4)(plain).slice(0, 2)
    audio = render(placed, roots)
    flac = to_flac(audio)
    assert flac["num_channels"].to_pylist() == [4, 4]
    channels, _ = soundfile.read(io.BytesIO(flac["flac"][0].as_py()), dtype="int16")
    assert channels[:, 0].tolist() == audio["samples"][0].as_py()
    assert not np.array_equal(channels[:, 0], channels[:, 1])


def test_stems_are_encoded_on_request(plain, roots):
    audio = render(Place()(plain).slice(0, 2), roots, stems="anechoic")
    assert Encode()(audio)["stems"].to_pylist() == [[], []]
    row = Encode(stems=True)(audio).to_pylist()[0]
    assert [stem["speaker"] for stem in row["stems"]] == row["speakers"]
    assert all(len(stem["codes"]) == len(row["codes"]) for stem in row["stems"])


def write_rirs(folder, rooms=2, each=3, rate_hz=16_000, channels=1):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for r in range(rooms):
        (folder / f"room{r}").mkdir()
        for i in range(each):
            rir = (
                rng.normal(0, 0.2, (rate_hz // 4, channels)) * np.exp(-np.arange(rate_hz // 4) / rate_hz * 30)[:, None]
            )
            rir[100 + i] = 1.0
            soundfile.write(folder / f"room{r}/seat{i}.wav", rir, rate_hz, subtype="FLOAT")
    return folder


def test_recorded_responses_seat_all_speakers_in_one_room_and_other_rates_are_resampled(tmp_path, plain, roots):
    for rate_hz in (16_000, 48_000):
        folder = write_rirs(tmp_path / f"rirs{rate_hz}", rate_hz=rate_hz)
        place = Place(room="recorded", rirs=str(folder))
        place.check(2)
        placed = place(plain)
        for row in placed.to_pylist():
            seats = row["room"]["seats"]
            assert len({seat["rir_audio"].split("/")[0] for seat in seats}) == 1
            assert len({seat["rir_id"] for seat in seats}) == len(seats)
        row = placed.to_pylist()[0]
        found = responses(row["room"], row["speakers"], 16_000, 1, folder)
        assert np.argmax(np.abs(found[0, 0])) == LEAD_SAMPLES
        assert np.mean(np.sum(found[:, 0] ** 2, axis=1)) == pytest.approx(1, rel=1e-4)
        audio = render(placed.slice(0, 2), {**roots, **place.roots()})
        assert [len(x.values) for x in audio["samples"]] == placed.slice(0, 2)["num_samples"].to_pylist()


def test_unusable_responses_are_named_before_work_starts(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Place(room="recorded", rirs=str(tmp_path / "none")).check(2)
    folder = write_rirs(tmp_path / "few", each=1)
    with pytest.raises(InputError, match=r"no room of .* has 2 impulse responses \(the most is 1\)"):
        Place(room="recorded", rirs=str(folder)).check(2)
    with pytest.raises(InputError, match=r"has 1 channel\(s\), but --place.num-microphones is 2"):
        Place(room="recorded", rirs=str(write_rirs(tmp_path / "mono")), num_microphones=2).check(2)
    (folder / "room0/broken.wav").write_bytes(b"RIFF")
    list_sounds.cache_clear()
    with pytest.raises(InputError, match=r"broken.wav cannot be read"):
        Place(room="recorded", rirs=str(folder)).check(1)
    with pytest.raises(InputError, match=r"--place.rirs requires --place.room recorded, and vice versa"):
        Place(rirs="x")


def test_lhotse_recordings_name_their_room(tmp_path):
    from lhotse import Recording, RecordingSet

    folder = write_rirs(tmp_path / "rirs", rooms=1, each=4)
    listed = []
    for number, path in enumerate(sorted(folder.rglob("*.wav"))):
        row = Recording.from_file(path, recording_id=f"r{number}").to_dict()
        listed.append(row)
    manifest = tmp_path / "recordings.jsonl"
    manifest.write_text(
        "".join(json.dumps({**row, "custom": {"room": f"hall{i % 2}"}}) + "\n" for i, row in enumerate(listed))
    )
    assert list_sounds(str(manifest), "rirs").rooms(2).keys() == {"hall0", "hall1"}
    RecordingSet.from_dicts(listed).to_file(tmp_path / "plain.jsonl.gz")
    assert len(list_sounds(str(tmp_path / "plain.jsonl.gz"), "rirs").sounds) == 4


def test_recorded_noise_has_its_signal_to_noise_ratio_and_silent_noise_is_refused(tmp_path, plain, roots):
    (tmp_path / "noise").mkdir()
    wav = 0.05 * np.random.default_rng(0).normal(size=(8000, 1))
    soundfile.write(tmp_path / "noise/hum.wav", wav, 16_000, subtype="FLOAT")
    place = Place(noise="recorded", noises=str(tmp_path / "noise"), min_snr_db=10, max_snr_db=10)
    noisy, clean = (
        np.array(render(p(plain).slice(0, 1), {**roots, **place.roots()})["samples"][0].as_py()) / 32767
        for p in (place, Place(noise="none"))
    )
    power = 10 * np.log10(np.mean((noisy - clean) ** 2))
    assert power == pytest.approx(-26 - 10, abs=0.7)  # half a second, looped with cross-fades
    soundfile.write(tmp_path / "noise/hum.wav", np.zeros(8000), 16_000)
    with pytest.raises(UnusableRowError, match=r"hum.wav is silent"):
        render(place(plain).slice(0, 1), {**roots, **place.roots()})


def test_looped_noise_has_no_seam():
    noise = np.random.default_rng(0).normal(size=(20_000, 1)).astype(np.float32)
    long = loop(noise, 100_000, 16_000)
    assert len(long) == 100_000
    assert np.array_equal(long[:12_000], noise[:12_000])
    for start in range(0, 96_000, 4000):
        assert np.var(long[start : start + 4000]) == pytest.approx(1, abs=0.15)


def test_sounds_are_read_from_the_middle_at_another_rate(tmp_path):
    t = np.arange(48_000) / 48_000
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * t), 48_000, subtype="FLOAT")
    part = read_sound(tmp_path / "a.wav", 16_000, start=4000, count=8000)
    expected = 0.5 * np.sin(2 * np.pi * 440 * (np.arange(8000) + 4000) / 16_000)
    assert part.shape == (8000, 1)
    assert np.abs(part[200:-200, 0] - expected[200:-200]).max() < 1e-3


def test_places_are_pickled_and_check_their_values():
    import pickle

    place = Place(room="simulated")
    assert pickle.loads(pickle.dumps(place)) == place
    for wrong in ({"min_t60_s": 2.0}, {"min_size_m": (9.0, 9.0, 9.0)}, {"temperature": 0.0}, {"num_microphones": 0}):
        with pytest.raises(InputError, match="place"):
            replace(place, **wrong)
    assert isinstance(place(CONVERSATIONS.empty_table()), pa.Table)
