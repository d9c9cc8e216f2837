"""Rooms, seats and impulse responses of simulated conversations, and the noise around them.

Each conversation has one room, and each speaker keeps one seat in it. Candidate rooms with seats are scored by their
plausibility, and one is drawn: at a low temperature the most plausible, at a high one any.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.config.settings import BY_CONTENT
from models.config.values import Checked, within
from operators.corpus.sounds import Sound, Sounds, list_sounds, read_sound
from operators.digest import digest
from operators.errors import InputError
from operators.rng import hash64_many, rendezvous, rng
from operators.schema import CONVERSATIONS, ROOM, TURN

Floats = NDArray[np.float64]

SPEED_OF_SOUND = 343.0  # m/s, as in pyroomacoustics
LEAD_SAMPLES = 40
"""Samples of a response before its direct sound, as a band-limited impulse needs; rendering removes them again."""
IMAGE_ORDER = 6
_CROSSFADE_S = 0.01


def plausibility(sizes_m: Floats, t60_s: Floats, microphone_m: Floats, seats_m: Floats) -> Floats:
    """Return a log-density (K,), up to a constant, of candidate rooms with seats.

    Talkers sit about 1.2 m from the microphone, at similar distances, and .5 to 3 m from each other, with heads at
    1.25 m; seen from the microphone they are 15 degrees apart or more; the reverberation time fits the room's volume;
    the direct-to-reverberant ratio is above -6 dB.

    Args:
        sizes_m: (K, 3) length, width and height of each candidate's room, in meters.
        t60_s: (K,) reverberation times, in seconds.
        microphone_m: (K, 3) center of the microphones, in meters.
        seats_m: (K, S, 3) position of each head, in meters.
    """
    away = seats_m - microphone_m[:, None]
    distance = np.linalg.norm(away, axis=2)
    score = -0.5 * (np.log(distance / 1.2) / 0.4) ** 2
    score -= 0.5 * ((seats_m[..., 2] - 1.25) / 0.15) ** 2
    volume = sizes_m.prod(1)
    reverberant = 4 * np.pi * SPEED_OF_SOUND * t60_s / (13.8155 * volume)  # of a source whose direct sound is 1/d^2
    ratio_db = -10 * np.log10(distance**2 * reverberant[:, None])
    score -= 0.5 * (np.minimum(0.0, ratio_db + 6.0) / 3.0) ** 2
    total = score.sum(1)
    total -= 0.5 * (np.std(np.log(distance), axis=1) / 0.25) ** 2
    # Living rooms and offices: about .35 s at 50 cubic meters, longer in larger rooms (in agreement with ISO 3382-2
    # surveys).
    total -= 0.5 * (np.log(t60_s / (0.35 * (volume / 50.0) ** 0.3)) / 0.35) ** 2
    number = seats_m.shape[1]
    angle = np.arctan2(away[..., 1], away[..., 0])
    for first in range(number):
        for other in range(first + 1, number):
            apart = np.linalg.norm(seats_m[:, first] - seats_m[:, other], axis=1)
            total -= 0.5 * (np.minimum(0.0, apart - 0.5) / 0.1) ** 2
            total -= 0.5 * (np.maximum(0.0, apart - 3.0) / 0.5) ** 2
            turned = np.abs(np.angle(np.exp(1j * (angle[:, first] - angle[:, other]))))
            total -= 0.5 * (np.minimum(0.0, np.degrees(turned) - 15.0) / 5.0) ** 2
    return np.asarray(total)


@dataclass(frozen=True, kw_only=True)
class Place(Checked, section="place", error=InputError):
    """Gives each conversation a room, each speaker a seat in it, and noise around them."""

    room: Literal["none", "simulated", "recorded"] = "none"
    """No room; shoebox rooms by the image method with a diffuse tail; or the impulse responses listed by `rirs`."""
    rirs: str | None = field(default=None, metadata=BY_CONTENT)
    """Impulse responses: lhotse recordings, JSONL or a folder; grouped into rooms by custom.room, or by folder."""
    min_size_m: tuple[float, ...] = field(default=(3.0, 3.0, 2.4), metadata=within(2, 1000, "m"))
    """Least length, width and height of a room, in meters."""
    max_size_m: tuple[float, ...] = field(default=(8.0, 6.0, 3.5), metadata=within(2, 1000, "m"))
    """Greatest length, width and height of a room, in meters."""
    min_t60_s: float = field(default=0.2, metadata=within(0.05, 3, "s"))
    """Least reverberation time, in seconds."""
    max_t60_s: float = field(default=0.7, metadata=within(0.05, 3, "s"))
    """Greatest reverberation time, in seconds."""
    num_microphones: int = field(default=1, metadata=within(1, 16))
    """Number of microphones, on a circle; all channels are kept, and the first one is the mixture."""
    array_radius_m: float = field(default=0.05, metadata=within(0, 10, "m"))
    """Radius of that circle, in meters."""
    candidates: int = field(default=16, metadata=within(1, 10_000))
    """Candidate rooms with seats that are scored for each conversation."""
    temperature: float = field(default=1.0, metadata=within(0, 10**6, open_at="low"))
    """Near 0 the most plausible candidate is drawn, far above 1 any."""
    noise: Literal["none", "pink", "recorded"] = "pink"
    """No noise; 1/f noise; or the recordings listed by `noises`."""
    noises: str | None = field(default=None, metadata=BY_CONTENT)
    """Noises: lhotse recordings, JSONL or a folder of sound files."""
    min_snr_db: float = field(default=15.0, metadata=within(-100, 200, "dB"))
    """Least signal-to-noise ratio, for a talker of gain 0 dB."""
    max_snr_db: float = field(default=30.0, metadata=within(-100, 200, "dB"))
    """Greatest signal-to-noise ratio, for a talker of gain 0 dB."""

    reads: ClassVar[pa.Schema] = CONVERSATIONS
    writes: ClassVar[pa.Schema] = CONVERSATIONS
    version: ClassVar[str] = "1"

    def rules(self) -> Iterator[str]:
        """Check the values together."""
        if len(self.min_size_m) != 3 or len(self.max_size_m) != 3:
            yield "place.min_size_m and max_size_m are length, width and height in meters"
        elif any(low > high for low, high in zip(self.min_size_m, self.max_size_m, strict=True)):
            yield "place: min_size_m <= max_size_m must hold"
        for low, high in (("min_t60_s", "max_t60_s"), ("min_snr_db", "max_snr_db")):
            if getattr(self, low) > getattr(self, high):
                yield f"place: {low} <= {high} must hold"
        for use, listed, flag in (
            (self.room == "recorded", self.rirs, "place.rirs"),
            (self.noise == "recorded", self.noises, "place.noises"),
        ):
            if use != (listed is not None):
                part = "room" if flag.endswith("rirs") else "noise"
                yield f"--{flag} requires --place.{part} recorded, and vice versa"

    def lists(self) -> dict[str, Sounds]:
        """Return the recordings that are used, by `rirs` and `noises`.

        Raises:
            InputError: one is missing or cannot be read.
        """
        named = {"rirs": self.rirs, "noises": self.noises}
        return {name: list_sounds(path, f"place.{name}") for name, path in named.items() if path is not None}

    def roots(self) -> dict[str, Path]:
        """Return the folders of the recordings that are used, by the names under which rendering looks them up."""
        return {f"#{name}": sounds.root for name, sounds in self.lists().items()}

    def check(self, max_speakers: int) -> None:
        """Check, before any work starts, that the impulse responses suffice for a number of speakers.

        Raises:
            InputError: no room has enough of them, or they have too few channels.
        """
        rirs = self.lists().get("rirs")
        if rirs is None:
            return
        if not rirs.rooms(max_speakers):
            most = max(len(listed) for listed in rirs.rooms(1).values())
            raise InputError(
                f"place.rirs: no room of {self.rirs} has {max_speakers} impulse responses (the most is {most}); lower "
                "--casting.max-speakers, or name the room of each by custom.room in the manifest"
            )
        thin = [sound for sound in rirs.sounds if sound.num_channels < self.num_microphones]
        if thin:
            raise InputError(
                f"place.rirs: {thin[0].audio} has {thin[0].num_channels} channel(s), but --place.num-microphones is "
                f"{self.num_microphones}"
            )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return conversations (rows of CONVERSATIONS) with room, seats and noise; recorded ones are unchanged."""
        rows = batch.select(["conversation_id", "origin", "seed", "speakers", "num_samples", "sample_rate_hz"])
        rooms: list[dict[str, Any] | None] = []
        noises: list[dict[str, Any]] = []
        for row in rows.to_pylist():
            mixed = row["origin"] == "simulated"
            rooms.append(self._room(row) if mixed and self.room != "none" else None)
            noises.append(self._noise(row) if mixed else {})
        columns = {"room": pa.array(rooms, ROOM)}
        for name in ("noise_id", "noise_audio", "noise_start_sample", "snr_db"):
            columns[name] = pa.array([noise.get(name) for noise in noises], CONVERSATIONS.field(name).type)
        if self.room != "none":
            columns["turns"] = _with_responses(batch["turns"].combine_chunks(), rooms)
        return pa.table([columns.get(name, batch[name]) for name in CONVERSATIONS.names], schema=CONVERSATIONS)

    def _noise(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.noise == "none":
            return {}
        draw = rng(row["seed"], "place-noise", row["conversation_id"])
        snr_db = float(draw.uniform(self.min_snr_db, self.max_snr_db))
        if self.noise == "pink":
            return {"noise_id": "pink", "snr_db": snr_db}
        sounds = self.lists()["noises"].sounds
        address = f"{row['seed']}:noise:{row['conversation_id']}"
        chosen = sounds[rendezvous(address, hash64_many([s.sound_id for s in sounds]), 1)[0]]
        length = chosen.num_samples * row["sample_rate_hz"] // chosen.rate_hz
        start = int(draw.integers(0, max(1, length - row["num_samples"])))
        return {"noise_id": chosen.sound_id, "noise_audio": chosen.audio, "noise_start_sample": start, "snr_db": snr_db}

    def _room(self, row: dict[str, Any]) -> dict[str, Any]:
        speakers: list[str] = row["speakers"]
        draw = rng(row["seed"], "room", row["conversation_id"])
        if self.room == "recorded":
            return self._recorded_room(row)
        count, number = self.candidates, len(speakers)
        low, high = np.array(self.min_size_m), np.array(self.max_size_m)
        sizes = low + draw.random((count, 3)) * (high - low)
        t60 = self.min_t60_s * (self.max_t60_s / self.min_t60_s) ** draw.random(count)
        # The microphone is on a table in the middle half of the room, heads at least half a meter from the walls.
        microphone = sizes * (0.25 + 0.5 * draw.random((count, 3)))
        microphone[:, 2] = 0.7 + 0.2 * draw.random(count)
        clear = 0.5
        seats = clear + draw.random((count, number, 3)) * (sizes[:, None] - 2 * clear)
        seats[..., 2] = np.minimum(1.1 + 0.6 * draw.random((count, number)), sizes[:, None, 2] - 0.3)
        # Rounded to millimeters before they are stored, hashed and used: the same on every machine.
        sizes, microphone, seats = (np.round(values, 3) for values in (sizes, microphone, seats))
        t60 = np.round(t60, 3)
        score = plausibility(sizes, t60, microphone, seats)
        best = int(np.argmax(score / self.temperature + draw.gumbel(size=count)))
        angle = 2 * np.pi * np.arange(self.num_microphones) / self.num_microphones
        radius = self.array_radius_m if self.num_microphones > 1 else 0.0
        ring = radius * np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)
        microphones = np.round(microphone[best] + ring, 3)
        geometry = Geometry.of(sizes[best], t60[best], microphones, row["sample_rate_hz"])
        return {
            "room_id": geometry.room_id,
            "size_m": sizes[best].tolist(),
            "t60_s": float(t60[best]),
            "microphones_m": microphones.tolist(),
            "plausibility": float(score[best]),
            "seats": [
                {"speaker": name, "position_m": seat.tolist(), "rir_id": geometry.rir_id(_mm(seat)), "rir_audio": None}
                for name, seat in zip(speakers, seats[best], strict=True)
            ],
        }

    def room_of(self, seed: int, conversation_id: str, speakers: Sequence[str], rate_hz: int) -> dict[str, Any]:
        """Return the room of one conversation, with a seat for each speaker: a ROOM of CONVERSATIONS."""
        row = {"seed": seed, "conversation_id": conversation_id, "speakers": list(speakers), "sample_rate_hz": rate_hz}
        return self._room(row)

    def _recorded_room(self, row: dict[str, Any]) -> dict[str, Any]:
        rooms = self.lists()["rirs"].rooms(len(row["speakers"]))
        if not rooms:
            raise InputError(
                f"place.rirs: no room of {self.rirs} has {len(row['speakers'])} impulse responses; add some"
            )
        names = list(rooms)
        address = f"{row['seed']}:room:{row['conversation_id']}"
        name = names[rendezvous(address, hash64_many(names), 1)[0]]
        listed: list[Sound] = rooms[name]
        seats = rendezvous(f"{address}:seats", hash64_many([s.sound_id for s in listed]), len(row["speakers"]))
        return {
            "room_id": name,
            "size_m": [],
            "t60_s": None,
            "microphones_m": [],
            "plausibility": None,
            "seats": [
                {"speaker": s, "position_m": [], "rir_id": listed[i].sound_id, "rir_audio": listed[i].audio}
                for s, i in zip(row["speakers"], seats.tolist(), strict=True)
            ],
        }


def _with_responses(turns: pa.ListArray, rooms: Sequence[dict[str, Any] | None]) -> pa.ListArray:
    """Return the turns with the id of each one's impulse response."""
    flat = turns.flatten()
    of = [{s["speaker"]: s["rir_id"] for s in room["seats"]} if room else {} for room in rooms]
    speakers, sizes = flat.field("speaker").to_pylist(), turns.value_lengths().to_pylist()
    owner = np.repeat(np.arange(len(rooms)), sizes).tolist()
    ids = [of[row].get(speaker) for row, speaker in zip(owner, speakers, strict=True)]
    columns = [pa.array(ids, pa.string()) if field.name == "rir_id" else flat.field(field.name) for field in TURN]
    borders = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(borders), pa.StructArray.from_arrays(columns, fields=list(TURN)))


def _mm(point_m: Sequence[float] | Floats) -> tuple[int, ...]:
    return tuple(round(float(x) * 1000) for x in point_m)


@dataclass(frozen=True)
class Geometry:
    """A shoebox room and its microphones, in whole millimeters and milliseconds."""

    size_mm: tuple[int, ...]
    t60_ms: int
    microphones_mm: tuple[tuple[int, ...], ...]
    rate_hz: int

    @staticmethod
    def of(size_m: Sequence[float] | Floats, t60_s: float, microphones_m: Any, rate_hz: int) -> "Geometry":
        """Return a geometry from meters and seconds, rounded."""
        return Geometry(
            _mm(size_m), round(t60_s * 1000), tuple(_mm(microphone) for microphone in microphones_m), rate_hz
        )

    @property
    def room_id(self) -> str:
        """Hash of the room and its microphones."""
        return digest([Place.version, self.size_mm, self.t60_ms, self.microphones_mm])[:16]

    def rir_id(self, seat_mm: tuple[int, ...]) -> str:
        """Return a hash of everything that the response from a seat depends on."""
        return digest([Place.version, self.size_mm, self.t60_ms, self.microphones_mm, self.rate_hz, seat_mm])[:16]


def simulated_rir(geometry: Geometry, seat_mm: tuple[int, ...], rir_id: str | None = None) -> NDArray[np.float32]:
    """Return the response (M, L) float32 from a seat to each microphone: images, then a diffuse tail.

    Images up to the sixth order are exact in time and level. Where they become incomplete, they are continued by
    Gaussian noise that decays by 60 dB in T60 and has the level of a diffuse field, 4 pi c / V per second (its energy
    in a room whose direct sound is 1/d), and its coherence between microphones, sinc(2 f d / c). The direct sound at
    the first microphone is at `LEAD_SAMPLES`; delays between microphones are kept; L is T60 plus the lead. The tail is
    drawn by `rir_id`: a conversation that keeps its ids keeps its samples.

    Sources: Allen & Berkley 1979, "Image method for efficiently simulating small-room acoustics", J. Acoust. Soc. Am.
    65(4) (pyroomacoustics); Lehmann & Johansson 2010, "Diffuse reverberation model for efficient image-source
    simulation of room impulse responses", IEEE TASLP 18(6); Habets & Gannot 2007, "Generating sensor signals in
    isotropic noise fields", J. Acoust. Soc. Am. 122(6), section III.
    """
    import pyroomacoustics

    size = np.array(geometry.size_mm) / 1000
    t60, hz = geometry.t60_ms / 1000, geometry.rate_hz
    volume = float(size.prod())
    surface = 2 * float(size[0] * size[1] + size[1] * size[2] + size[0] * size[2])
    absorption = 1 - np.exp(-24 * np.log(10) * volume / (SPEED_OF_SOUND * surface * t60))  # Eyring
    microphones = np.array(geometry.microphones_mm) / 1000
    room = pyroomacoustics.ShoeBox(
        size, fs=hz, materials=pyroomacoustics.Material(float(absorption)), max_order=IMAGE_ORDER, air_absorption=False
    )
    room.add_source(np.array(seat_mm) / 1000)
    room.add_microphone_array(microphones.T)
    # Threads sum images in parts: with as many as there are cores, samples would depend on the machine.
    pyroomacoustics.constants.set("num_threads", 1)
    room.compute_rir()
    half = pyroomacoustics.constants.get("frac_delay_length") // 2
    distance = float(np.linalg.norm(np.array(seat_mm) / 1000 - microphones[0]))
    direct = round(distance / SPEED_OF_SOUND * hz)
    skip = direct + half - LEAD_SAMPLES  # of the library's response, whose time 0 is at `half`
    length = LEAD_SAMPLES + geometry.t60_ms * hz // 1000
    early = np.zeros((len(microphones), length))
    for number in range(len(microphones)):
        image = room.rir[number][0][max(0, skip) :][: length - max(0, -skip)]
        early[number, max(0, -skip) : max(0, -skip) + len(image)] = image

    time = (np.arange(length) + skip - half) / hz  # since emission
    complete = IMAGE_ORDER * float(size.min()) / SPEED_OF_SOUND
    share = np.clip((time - complete) / _CROSSFADE_S + 1.0, 0.0, 1.0)
    level = np.sqrt(4 * np.pi * SPEED_OF_SOUND / volume / hz) * np.exp(-3 * np.log(10) * np.maximum(time, 0) / t60)
    draw = rng(0, "rir-tail", rir_id or geometry.rir_id(seat_mm))
    tail = _diffuse(draw.standard_normal((len(microphones), length)), microphones, hz)
    return np.asarray(early * np.sqrt(1 - share) + tail * level * np.sqrt(share), dtype=np.float32)


def _diffuse(white: Floats, microphones_m: Floats, rate_hz: int) -> Floats:
    """Return white noise (M, L) with the coherence of a diffuse field between its channels."""
    if len(white) == 1:
        return white
    apart = np.linalg.norm(microphones_m[:, None] - microphones_m[None], axis=2)
    hz = np.fft.rfftfreq(white.shape[1], 1 / rate_hz)
    coherence = np.sinc(2 * hz[:, None, None] * apart / SPEED_OF_SOUND) + 1e-6 * np.eye(len(white))
    factor = np.linalg.cholesky(coherence)
    spectrum = np.einsum("fij,jf->if", factor, np.fft.rfft(white, axis=1))
    return np.asarray(np.fft.irfft(spectrum, n=white.shape[1], axis=1))


@lru_cache(maxsize=64)
def _cached_rir(geometry: Geometry, seat_mm: tuple[int, ...], rir_id: str | None) -> NDArray[np.float32]:
    return simulated_rir(geometry, seat_mm, rir_id)


@lru_cache(maxsize=64)
def _cached_recording(path: Path, rate_hz: int, num_channels: int) -> NDArray[np.float32]:
    samples = read_sound(path, rate_hz)[:, :num_channels].T
    peak = int(np.argmax(np.abs(samples[0])))
    if not samples[0, peak]:
        raise InputError(f"place.rirs: {path} is silent")
    # The direct sound is the peak; anything before the lead is measurement noise.
    return np.ascontiguousarray(np.pad(samples, ((0, 0), (LEAD_SAMPLES, 0)))[:, peak:])


def responses(
    room: dict[str, Any], speakers: Sequence[str], rate_hz: int, num_microphones: int, rirs_root: Path | None
) -> NDArray[np.float32]:
    """Return each speaker's response (S, M, L) float32, scaled so that their mean energy at the first microphone is 1.

    All responses share one factor, so that speakers who sit farther away remain fainter.

    Args:
        room: ROOM of a row of CONVERSATIONS.
        speakers: the S speakers.
        rate_hz: sample rate of the responses.
        num_microphones: number of microphones M.
        rirs_root: folder of recorded impulse responses.

    Raises:
        InputError: a recorded response is silent.
        UnusableRowError: a recorded response cannot be read.
    """
    seats = {seat["speaker"]: seat for seat in room["seats"]}
    found = []
    for seat in (seats[speaker] for speaker in speakers):
        if seat["rir_audio"] is None:
            geometry = Geometry.of(room["size_m"], room["t60_s"], room["microphones_m"], rate_hz)
            found.append(_cached_rir(geometry, _mm(seat["position_m"]), seat["rir_id"]))
        else:
            found.append(_cached_recording((rirs_root or Path()) / seat["rir_audio"], rate_hz, num_microphones))
    length = max(response.shape[1] for response in found)
    stacked = np.stack([np.pad(response, ((0, 0), (0, length - response.shape[1]))) for response in found])
    energy = float(np.mean(np.sum(stacked[:, 0].astype(np.float64) ** 2, axis=1)))
    return np.asarray(stacked * np.float32(1 / np.sqrt(energy)))
