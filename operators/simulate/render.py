"""Conversations to mixtures: the same samples wherever they are rendered."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.config.settings import NO_RESULT
from models.config.values import Checked, within
from operators.corpus.sounds import read_sound
from operators.corpus.sources import prefetch_sources, read_source, resample, resampled_length, roots_of
from operators.errors import InputError, UnusableRowError
from operators.schema import AUDIO, CONVERSATIONS
from operators.simulate.rooms import LEAD_SAMPLES, responses
from operators.simulate.signals.convolution import PlacedSignal, convolve
from operators.simulate.signals.levels import (
    SILENT,
    as_written,
    fade_edges,
    mean_square,
    scale_below_clipping,
    to_pcm16,
)
from operators.simulate.signals.noise import extend, loop, pink_noise_blocks

LONGEST_ENROLMENT_S = 10.0
"""Enrolments are cut to so many seconds: no sample of a voice is longer."""


@dataclass(frozen=True)
class RenderedConversation:
    """The audio of one conversation."""

    channels: NDArray[np.int16]
    """(M, N) of each microphone; the first one's is the mixture."""
    stems: tuple[tuple[str, str, NDArray[np.int16]], ...]
    """Speaker, kind (reverberant or anechoic) and samples (N,)."""
    enrolments: tuple[NDArray[np.int16], ...]
    """Samples (N,) of each enrolment."""
    scale: float
    """Factor that keeps the mixture from clipping; 1 where none is needed."""


@dataclass(frozen=True, kw_only=True)
class Render(Checked, section="render", error=InputError):
    """Mixes the turns of each conversation as its microphones receive them, with noise at its signal-to-noise ratio."""

    level_dbfs: float = field(default=-26.0, metadata=within(-60, -10, "dBFS"))
    """Root-mean-square level to which a turn of gain 0 dB is scaled."""
    keep_audio: bool = field(default=False, metadata=NO_RESULT)
    """Whether mixtures are kept as FLAC in a data set of their own."""
    stems: Literal["none", "reverberant", "anechoic", "both"] = "none"
    """Whether each speaker's own signal is rendered too: as received by the first microphone, or without the room."""

    reads: ClassVar[pa.Schema] = CONVERSATIONS
    writes: ClassVar[pa.Schema] = AUDIO
    version: ClassVar[str] = "3"

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return conversations with their samples (rows of AUDIO); `batch` comes from `with_roots`.

        Raises:
            UnusableRowError: a recording cannot be used.
        """
        roots, rows = roots_of(batch), batch.to_pylist()
        prefetch_sources(rows)
        rendered = [self.render_conversation(row, roots) for row in rows]
        stems = pa.array(
            [[{"speaker": s, "kind": kind, "samples": x} for s, kind, x in each.stems] for each in rendered],
            AUDIO.field("stems").type,
        )
        arrays = [each.channels for each in rendered]
        columns = {
            "samples": _lists([channels[0] for channels in arrays]),
            "far_samples": _lists(
                [channels.T.ravel() if len(channels) > 1 else channels[0, :0] for channels in arrays]
            ),
            "stems": stems,
            "enrolment_samples": pa.array(
                [each.enrolments for each in rendered], AUDIO.field("enrolment_samples").type
            ),
            "scale": pa.array([each.scale for each in rendered], pa.float32()),
        }
        return pa.table([columns[n] if n in columns else batch[n] for n in AUDIO.names], schema=AUDIO)

    def render_conversation(self, conversation: Mapping[str, Any], roots: Mapping[str, Path]) -> RenderedConversation:
        """Return the audio of one conversation.

        Args:
            conversation: a row of CONVERSATIONS.
            roots: folder of each corpus, and of impulse responses and noises (`Place.roots`).

        Raises:
            UnusableRowError: a recording cannot be used.
        """
        if conversation["origin"] == "recorded":
            return self._recorded(conversation, roots)
        rate_hz, num_samples = conversation["sample_rate_hz"], conversation["num_samples"]
        speakers: list[str] = conversation["speakers"]
        # Mixtures are summed the same way with and without stems, so that both are bit-identical.
        anechoic = self.stems in ("anechoic", "both")
        reverberant = self.stems in ("reverberant", "both")
        dry = wet = None
        # A given mixture is summed in the arithmetic of the script that defines it.
        given = conversation["mixing"]
        if conversation["room"] is None:
            mixture = np.zeros((1, num_samples), given or np.float32)
            for signal in self._signals(conversation, roots):
                mixture[0, signal.start : signal.end] += signal.samples
        else:
            num_microphones = max(1, len(conversation["room"]["microphones_m"]))
            rirs = responses(conversation["room"], speakers, rate_hz, num_microphones, roots.get("#rirs"))
            # The lead of the responses comes before time 0: the timeline is longer by it, and cut.
            longer = num_samples + LEAD_SAMPLES
            mixture = convolve(self._signals(conversation, roots), rirs, longer)[0][:, LEAD_SAMPLES:]
            if reverberant:
                wet = convolve(self._signals(conversation, roots), rirs[:, :1], longer, apart=True)[:, 0, LEAD_SAMPLES:]
        if anechoic or (reverberant and wet is None):
            dry = self._dry(conversation, roots)
        kept = [("anechoic", dry)] if anechoic else []
        if reverberant:
            kept.append(("reverberant", dry if wet is None else wet))
        self._add_noise(mixture, conversation, roots)
        scale = 1.0
        if given:
            _add_background(mixture, conversation, roots)
        else:
            scale = scale_below_clipping(max(float(mixture.max(initial=0.0)), -float(mixture.min(initial=0.0))))

        def integers(samples: NDArray[Any]) -> NDArray[np.int16]:
            return as_written(samples) if given else to_pcm16(samples, scale)

        named = [
            (speaker, kind, integers(each[number]))
            for kind, each in kept
            if each is not None
            for number, speaker in enumerate(speakers)
        ]
        samples = integers(mixture.reshape(-1)).reshape(mixture.shape)
        return RenderedConversation(samples, tuple(named), self._enrolments(conversation, roots), scale)

    def _enrolments(self, conversation: Mapping[str, Any], roots: Mapping[str, Path]) -> tuple[NDArray[np.int16], ...]:
        """Return the first seconds of each enrolment, without a room, at the level of a turn of gain 0 dB.

        Raises:
            UnusableRowError: a recording cannot be used, or is silent.
        """
        found = []
        for one in conversation["enrolments"] or ():
            own_hz, rate_hz = one["source_rate_hz"], conversation["sample_rate_hz"]
            length = min(one["source_num_samples"], round(LONGEST_ENROLMENT_S * own_hz))
            source = read_source({**one, "source_num_samples": length}, roots)
            samples = resample(source, own_hz, rate_hz, resampled_length(length, own_hz, rate_hz))
            power = mean_square(samples)
            if power <= SILENT:
                raise UnusableRowError(f"utterance {one['utterance_id']} is silent")
            samples = samples * np.float32(10 ** (self.level_dbfs / 20) / np.sqrt(power))
            found.append(to_pcm16(samples, scale_below_clipping(float(np.abs(samples).max(initial=0.0)))))
        return tuple(found)

    def _signals(self, conversation: Mapping[str, Any], roots: Mapping[str, Path]) -> Iterator[PlacedSignal]:
        """Yield each turn's signal at its speaker's level, by start.

        Raises:
            UnusableRowError: a recording cannot be used, or is silent.
        """
        rate_hz = conversation["sample_rate_hz"]
        number_of = {speaker: number for number, speaker in enumerate(conversation["speakers"])}
        for turn in conversation["turns"]:
            source = read_source(turn, roots)
            samples = resample(source, turn["source_rate_hz"], rate_hz, turn["num_samples"])
            power = mean_square(samples)
            if power <= SILENT:
                raise UnusableRowError(f"utterance {turn['utterance_id']} is silent")
            if turn["gain"] is not None:
                own = samples.astype(conversation["mixing"] or np.float32)
                yield PlacedSignal(number_of[turn["speaker"]], turn["start_sample"], own * own.dtype.type(turn["gain"]))
                continue
            gain = 10 ** ((self.level_dbfs + turn["gain_db"]) / 20) / np.sqrt(power)
            if turn["is_part"]:
                samples = fade_edges(samples, rate_hz)
            yield PlacedSignal(number_of[turn["speaker"]], turn["start_sample"], samples * np.float32(gain))

    def _dry(self, conversation: Mapping[str, Any], roots: Mapping[str, Path]) -> NDArray[np.float32]:
        """Return each speaker's signal (S, N) without the room."""
        out = np.zeros((len(conversation["speakers"]), conversation["num_samples"]), np.float32)
        for signal in self._signals(conversation, roots):
            out[signal.speaker, signal.start : signal.end] += signal.samples
        return out

    def _add_noise(
        self, mixture: NDArray[np.float32], conversation: Mapping[str, Any], roots: Mapping[str, Path]
    ) -> None:
        """Add noise to a mixture (M, N): independent pink noise per microphone, or a recording's channels in turn."""
        if conversation["noise_id"] is None:
            return
        level = np.float32(10 ** ((self.level_dbfs - conversation["snr_db"]) / 20))
        num_samples = mixture.shape[1]
        if conversation["noise_audio"] is None:
            for number, channel in enumerate(mixture):
                name = conversation["conversation_id"] + (f":{number}" if number else "")
                start = 0
                for block in pink_noise_blocks(num_samples, conversation["seed"], name):
                    channel[start : start + len(block)] += block * level
                    start += len(block)
            return
        path = roots.get("#noises", Path()) / conversation["noise_audio"]
        noise = read_sound(path, conversation["sample_rate_hz"], conversation["noise_start_sample"], num_samples)
        power = mean_square(noise)
        if power <= SILENT:
            raise UnusableRowError(f"noise {path} is silent after sample {conversation['noise_start_sample']}")
        looped = loop(noise, num_samples, conversation["sample_rate_hz"]) * (level / np.float32(np.sqrt(power)))
        for number in range(len(mixture)):
            mixture[number] += looped[:, number % looped.shape[1]]

    def _recorded(self, conversation: Mapping[str, Any], roots: Mapping[str, Path]) -> RenderedConversation:
        """Return a recorded conversation, with its speech scaled to the level of simulated ones."""
        recording, rate_hz = conversation["recording"], conversation["sample_rate_hz"]
        source = read_source(recording, roots)
        samples = resample(source, recording["source_rate_hz"], rate_hz, conversation["num_samples"])
        spoken = np.zeros(len(samples), bool)
        for turn in conversation["turns"]:
            spoken[turn["start_sample"] : turn["start_sample"] + turn["num_samples"]] = True
        power = mean_square(samples[spoken])
        if power <= SILENT:
            raise UnusableRowError(f"recording {conversation['conversation_id']} is silent in all of its turns")
        samples = samples * np.float32(10 ** (self.level_dbfs / 20) / np.sqrt(power))
        scale = scale_below_clipping(float(np.abs(samples).max(initial=0.0)))
        return RenderedConversation(to_pcm16(samples, scale)[None], (), (), scale)


def _add_background(mixture: NDArray[Any], conversation: Mapping[str, Any], roots: Mapping[str, Path]) -> None:
    """Add the background of a given mixture to every channel (M, N), times its gain."""
    background = conversation["background"]
    if background is None:
        return
    rate_hz, own_hz = conversation["sample_rate_hz"], background["source_rate_hz"]
    source = read_source(background, roots)
    noise = resample(source, own_hz, rate_hz, resampled_length(len(source), own_hz, rate_hz))
    try:
        noise = extend(noise, mixture.shape[1], rate_hz)
    except ValueError as error:
        raise UnusableRowError(f"background {background['audio']}: {error}") from error
    mixture += noise * noise.dtype.type(background["gain"])


def _lists(arrays: Sequence[NDArray[np.int16]]) -> pa.LargeListArray:
    offsets = np.cumsum([0] + [len(array) for array in arrays])
    values = arrays[0] if len(arrays) == 1 else np.concatenate([np.zeros(0, np.int16), *arrays])
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values, pa.int16()))
