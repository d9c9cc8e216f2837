"""A frozen speech encoder, with or without low-rank updates, over many stretches of audio at once.

Every stretch is encoded as if it were alone: what pads it to the longest of its batch is masked, or stretches of equal
length are batched, where an encoder normalizes over time. So how stretches are batched changes nothing but rounding.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from models.codecs.pcm import Pcm
from models.speech_lm.diarization import FrameTransforms
from models.speech_lm.hearing.load import ENCODER_HOP, load_encoder
from models.speech_lm.hearing.mel import log_mel

EncoderWindow = Literal["content", "full"]
_MOST_FRAMES = {"cpu": 800, "cuda": 48_000}
"""Frames, padding included, that go through the encoder at once. More cost a CPU a fifth for padding and masks
(`make bench-features`); a GPU needs many stretches to be busy."""


class _LowRank(nn.Module):
    """W + 2 B A, where W is frozen."""

    def __init__(self, down: nn.Parameter, up: nn.Parameter) -> None:
        super().__init__()
        self.down, self.up = down, up

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + 2.0 * (self.up @ self.down)


class Hearing(nn.Module):
    """An encoder whose own weights are frozen and no part of a checkpoint; low-rank updates are."""

    def __init__(
        self,
        name: str,
        rank: int = 0,
        layers: Sequence[int] = (),
        window: EncoderWindow = "content",
        tail_s: float = 0.0,
        *,
        is_told: bool = False,
    ) -> None:
        """Load the encoder; with a rank above 0, queries and values of its attention get trained updates.

        Args:
            name: folder or hub id.
            rank: of the updates; 0 for none.
            layers: whose states are returned, 0 for what enters the first; the last one's where none is named.
            window: of Whisper: the sound alone, or padded with silence to the 30 s that it was trained on.
            tail_s: seconds of silence that are heard, as frames, behind each stretch.
            is_told: whether frames are transformed before each layer by who speaks in them, of Whisper.

        Raises:
            ValueError: the encoder does not load, or has no such layer.
        """
        super().__init__()
        encoder = load_encoder(name)
        encoder.requires_grad_(False)
        config = encoder.config
        self.width, self.kind, self.window = int(config.hidden_size), str(config.model_type), window
        depth = int(config.encoder_layers if self.kind == "whisper" else config.num_hidden_layers)
        if any(not 0 <= layer <= depth for layer in layers):
            raise ValueError(f"encoder {name} has layers 0 to {depth}, not {', '.join(map(str, layers))}")
        self.layers = tuple(layers) or (depth,)
        self.tail_frames = tail_frames(tail_s)
        """Frames behind those of each stretch."""
        self._held = [encoder]  # in a list: its weights are the folder's, and no parameters of ours
        if is_told and self.kind != "whisper":
            raise ValueError(f"model.diarization encoder is for Whisper's, not for a {self.kind}: take frames")
        self.told = nn.ModuleList(
            FrameTransforms(self.width, is_first=number == 0) for number in range(depth if is_told else 0)
        )
        """Transformations before each layer."""
        self.update_down = nn.ParameterList()
        self.update_up = nn.ParameterList()
        if rank:
            for path, layer in encoder.named_modules():
                if isinstance(layer, nn.Linear) and path.endswith(("q_proj", "v_proj")):
                    down = nn.Parameter(torch.randn(rank, layer.in_features) * layer.in_features**-0.5)
                    up = nn.Parameter(torch.zeros(layer.out_features, rank))
                    self.update_down.append(down)
                    self.update_up.append(up)
                    # Of the weight itself: WavLM reads it without ever calling the layer.
                    parametrize.register_parametrization(layer, "weight", _LowRank(down, up))

    def forward(
        self,
        wavs: Sequence[torch.Tensor],
        most_frames: int | None = None,
        classes: Sequence[torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """Return frames (N / 320 + tail, layers, width) of each waveform (N,), N a multiple of 1280.

        Args:
            wavs: on one device.
            most_frames: that go through the encoder at once, padding included; by default as many as the device likes.
            classes: of the frames (F, 4) of each waveform, tail included, where the encoder is told who speaks in them.
        """
        if not wavs:
            return []
        device = wavs[0].device
        if self.tail_frames:
            wavs = [F.pad(wav, (0, self.tail_frames * ENCODER_HOP)) for wav in wavs]
        encoder = self._held[0].to(device).eval()
        most = int(encoder.config.max_source_positions) * ENCODER_HOP if self.kind == "whisper" else None
        pieces = [list(torch.split(wav, most or len(wav))) for wav in wavs]
        flat = [piece for listed in pieces for piece in listed]
        told = None
        if classes is not None:
            told = [
                part for one in classes for part in torch.split(one, (most or len(one) * ENCODER_HOP) // ENCODER_HOP)
            ]
        found: dict[int, torch.Tensor] = {}
        for batch in self._batches([len(piece) for piece in flat], most, most_frames or _most_frames(device)):
            sounds = [flat[number] for number in batch]
            if most is None:
                states = self._convolved(encoder, sounds)
            else:
                states = self._whisper(encoder, sounds, None if told is None else [told[number] for number in batch])
            found |= {number: states[row, : len(flat[number]) // ENCODER_HOP] for row, number in enumerate(batch)}
        further = iter(range(len(flat)))
        return [torch.cat([found[next(further)] for _ in listed]) for listed in pieces]

    @torch.no_grad()
    def whole_encoder(self) -> tuple[Any, dict[str, torch.Tensor]]:
        """Return the encoder's configuration, and its tensors with the trained updates added to them."""
        encoder, inside = self._held[0], ".parametrizations."
        state = {name: tensor for name, tensor in encoder.state_dict().items() if inside not in name}
        for path, layer in encoder.named_modules():
            if parametrize.is_parametrized(layer, "weight"):
                state[f"{path}.weight"] = layer.weight
        return encoder.config, state

    def _batches(self, lengths: Sequence[int], most: int | None, most_frames: int) -> Iterator[list[int]]:
        """Yield the numbers of the pieces, of so many samples each, that are encoded at once, the shortest first."""
        batch: list[int] = []
        for number in sorted(range(len(lengths)), key=lambda number: (lengths[number], number)):
            length = most if most is not None and self.window == "full" else lengths[number]
            is_other = most is None and batch and lengths[batch[0]] != length
            if batch and (is_other or (len(batch) + 1) * length > most_frames * ENCODER_HOP):
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def _convolved(self, encoder: Any, wavs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return states (B, T, layers, width) of waveforms of equal length, by WavLM, HuBERT or wav2vec 2.0."""
        reach = 400 - ENCODER_HOP  # a frame of these convolutions sees 400 samples
        padded = F.pad(torch.stack(list(wavs)), (reach // 2, reach - reach // 2))
        spread = torch.sqrt(padded.var(dim=1, correction=0, keepdim=True) + 1e-7)
        normal = (padded - padded.mean(dim=1, keepdim=True)) / spread
        out = encoder(normal.to(self._dtype(encoder)), output_hidden_states=True)
        return torch.stack([out.hidden_states[layer] for layer in self.layers], dim=2)

    def _whisper(self, encoder: Any, wavs: Sequence[torch.Tensor], told: Sequence[torch.Tensor] | None) -> torch.Tensor:
        """Return states (B, T, layers, width) of waveforms of one window at most.

        The modules are called one by one: transformers' own forward takes 30 s only, and no mask.
        """
        config, is_full = encoder.config, self.window == "full"
        most = int(config.max_source_positions) * ENCODER_HOP
        mel = log_mel(wavs, int(config.num_mel_bins), most, full=is_full).to(self._dtype(encoder))
        x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)
        frames = x.shape[1]
        x = x + encoder.embed_positions.weight[:frames]
        seen, lengths = None, [len(wav) // ENCODER_HOP for wav in wavs]
        if not is_full and min(lengths) < frames:
            ends = torch.tensor(lengths).to(x.device, non_blocking=True)
            seen = (torch.arange(frames, device=x.device) < ends[:, None])[:, None, None]
        classes = None if told is None else torch.stack([F.pad(one, (0, 0, 0, frames - len(one))) for one in told])
        states = {0: x}
        for number, layer in enumerate(encoder.layers, 1):
            if classes is not None and self.told:
                x = self.told[number - 1](x, classes)
            made = layer(x, seen)
            x = made[0] if isinstance(made, tuple) else made
            states[number] = x
        states[len(encoder.layers)] = encoder.layer_norm(x)
        return torch.stack([states[layer] for layer in self.layers], dim=2)

    @staticmethod
    def _dtype(encoder: Any) -> torch.dtype:
        dtype: torch.dtype = next(encoder.parameters()).dtype
        return dtype


def tail_frames(tail_s: float) -> int:
    """Return the encoder's frames in so many seconds."""
    return round(tail_s * Pcm.SAMPLE_RATE_HZ / ENCODER_HOP)


def _most_frames(device: torch.device) -> int:
    return _MOST_FRAMES["cuda" if device.type == "cuda" else "cpu"]
