"""A continuous front end: a pretrained speech encoder, and a projector from its frames to columns.

The encoder (Whisper, WavLM, HuBERT, wav2vec 2.0; a folder or a hub id) runs in the training step, frozen or with
low-rank updates. Every stretch of audio goes through it alone, so that packing changes nothing.
Sources: Ma et al. 2024, "SLAM-ASR", arXiv:2402.08846, section 3 (stacked frames and two linear layers); Saon et al.
2025, "Granite-speech", arXiv:2505.08699, section 3.2 (queries that attend to windows of frames).
"""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from models.codecs.pcm import ZERO, Pcm

ENCODER_HOP = 320
"""Samples between two frames of all of these encoders: 50 a second."""
STACK = Pcm.HOP_SAMPLES // ENCODER_HOP
"""Frames in a column."""
WINDOW_COLUMNS = 4
"""Columns whose queries attend to the frames of all four."""
_FAMILIES = ("whisper", "wavlm", "hubert", "wav2vec2")


def load_encoder(name: str) -> Any:
    """Return an encoder of transformers by its folder or hub id.

    Raises:
        ValueError: the package or the weights are missing, or it is of another family or rate.
    """
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        raise ValueError("an encoder needs a package: pip install 'hubbub[codecs]'") from error
    local = Path(name).is_dir()
    if not local and (Path(name).is_absolute() or name.startswith(".")):
        raise ValueError(f"there is no folder {name}")
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=local)
        known = config.model_type in _FAMILIES
        model: Any = AutoModel.from_pretrained(name, use_safetensors=True, local_files_only=local) if known else None
    except (OSError, ValueError) as error:
        raise ValueError(f"encoder {name} does not load: {str(error).splitlines()[0]}") from error
    if model is None:
        raise ValueError(f"encoder {name} is a {config.model_type}; there are {', '.join(_FAMILIES)}")
    if config.model_type != "whisper" and int(np.prod(config.conv_stride)) != ENCODER_HOP:
        raise ValueError(f"encoder {name} makes a frame of {np.prod(config.conv_stride)} samples, not of {ENCODER_HOP}")
    return (model.encoder if config.model_type == "whisper" else model).eval()


def encoder_digest(name: str) -> str:
    """Return the digest of an encoder's weights, which checkpoints trained with it record."""
    state = hashlib.blake2b(digest_size=32)
    for key, tensor in sorted(load_encoder(name).state_dict().items()):
        state.update(key.encode() + tensor.detach().to(torch.float32).contiguous().numpy().tobytes())
    return state.hexdigest()


class _LowRank(nn.Module):
    """W + 2 B A, where W is frozen."""

    def __init__(self, down: nn.Parameter, up: nn.Parameter) -> None:
        super().__init__()
        self.down, self.up = down, up

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + 2.0 * (self.up @ self.down)


class Hearing(nn.Module):
    """An encoder whose own weights are frozen and no part of a checkpoint; low-rank updates are."""

    def __init__(self, name: str, rank: int) -> None:
        """Load the encoder; with a rank above 0, queries and values of its attention get trained updates."""
        super().__init__()
        encoder = load_encoder(name)
        encoder.requires_grad_(False)
        self.width, self.kind = int(encoder.config.hidden_size), str(encoder.config.model_type)
        self._held = [encoder]  # in a list: its weights are the folder's, and no parameters of ours
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

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        """Return frames (N / 320, width) of a waveform (N,), N a multiple of 1280."""
        encoder, frames = self._held[0].to(wav.device).eval(), len(wav) // ENCODER_HOP
        if self.kind == "whisper":
            most = int(encoder.config.max_source_positions) * ENCODER_HOP
            pieces = [self._whisper(piece, encoder) for piece in torch.split(wav, most)]
            return torch.cat(pieces)[:frames]
        reach = 400 - ENCODER_HOP  # a frame of these convolutions sees 400 samples
        padded = F.pad(wav, (reach // 2, reach - reach // 2))
        normal = (padded - padded.mean()) / torch.sqrt(padded.var(correction=0) + 1e-7)
        states: torch.Tensor = encoder(normal[None].to(self._dtype(encoder))).last_hidden_state[0]
        return states[:frames]

    def _whisper(self, wav: torch.Tensor, encoder: Any) -> torch.Tensor:
        from transformers import WhisperFeatureExtractor

        config = encoder.config
        most_s = config.max_source_positions * ENCODER_HOP / Pcm.SAMPLE_RATE_HZ
        extract = WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=most_s)
        extract.n_samples = config.max_source_positions * ENCODER_HOP
        features = extract(wav.float().cpu().numpy(), sampling_rate=Pcm.SAMPLE_RATE_HZ, return_tensors="pt")
        mel = features["input_features"].to(wav.device, self._dtype(encoder))
        states: torch.Tensor = encoder(mel).last_hidden_state[0]
        return states[: -(-len(wav) // ENCODER_HOP)]

    @staticmethod
    def _dtype(encoder: Any) -> torch.dtype:
        dtype: torch.dtype = next(encoder.parameters()).dtype
        return dtype


class Stacked(nn.Module):
    """Four frames side by side, then two linear layers (SLAM-ASR)."""

    def __init__(self, width: int, dim: int) -> None:
        """Build the layers."""
        super().__init__()
        self.inner = nn.Linear(STACK * width, 2 * dim, bias=False)
        self.outer = nn.Linear(2 * dim, dim, bias=False)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Return columns (T, d) of frames (4 T, width)."""
        out: torch.Tensor = self.outer(F.relu(self.inner(frames.reshape(-1, STACK * frames.shape[1]))))
        return out


class Queries(nn.Module):
    """Learned queries, one a column, that attend to the frames of a window of columns (Granite-speech)."""

    def __init__(self, width: int, dim: int, layers: int = 2) -> None:
        """Build the layers."""
        super().__init__()
        self.heads = max(1, dim // 64)
        self.queries = nn.Parameter(torch.randn(WINDOW_COLUMNS, dim) * 0.02)
        self.place = nn.Parameter(torch.randn(WINDOW_COLUMNS * STACK, dim) * 0.02)
        self.into = nn.Linear(width, dim, bias=False)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(dim),
                    "q": nn.Linear(dim, dim, bias=False),
                    "kv": nn.Linear(dim, 2 * dim, bias=False),
                    "out": nn.Linear(dim, dim, bias=False),
                    "ffn_norm": nn.LayerNorm(dim),
                    "up": nn.Linear(dim, 4 * dim, bias=False),
                    "down": nn.Linear(4 * dim, dim, bias=False),
                }
            )
            for _ in range(layers)
        )

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Return columns (T, d) of frames (4 T, width)."""
        columns, span = len(frames) // STACK, WINDOW_COLUMNS * STACK
        padded = F.pad(self.into(frames), (0, 0, 0, -len(frames) % span)).view(-1, span, self.queries.shape[1])
        there = F.pad(torch.ones(len(frames), dtype=torch.bool, device=frames.device), (0, -len(frames) % span))
        seen = there.view(-1, 1, 1, span)
        states = padded + self.place
        x = self.queries.expand(len(padded), -1, -1)
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            k, v = layer["kv"](states).chunk(2, dim=-1)
            q = layer["q"](layer["norm"](x))
            q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(-2)
            x = x + layer["out"](attended)
            x = x + layer["down"](F.gelu(layer["up"](layer["ffn_norm"](x))))
        return x.flatten(0, 1)[:columns]


class FrontEnd(nn.Module):
    """Samples to columns: encoder, then projector."""

    def __init__(self, encoder: str, projector: str, rank: int, dim: int) -> None:
        """Load the encoder and build the projector."""
        super().__init__()
        self.hearing = Hearing(encoder, rank)
        kind = Stacked if projector == "mlp" else Queries
        self.projector: Stacked | Queries = kind(self.hearing.width, dim)

    def forward(self, samples: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Return columns (A, d).

        Args:
            samples: (A, 1280) codes of `models.codecs.pcm`.
            columns: (A,) their positions: adjacent columns belong to one stretch of audio.
        """
        if not len(samples):
            return next(self.projector.parameters()).sum() * samples.new_zeros((0, 1), dtype=torch.float32)
        parts = []
        for first, end in stretches(columns):
            wav = (samples[first:end].reshape(-1).to(torch.float32) - ZERO) / 32768.0
            parts.append(self.projector(self.hearing(wav)))
        return torch.cat(parts)


def stretches(columns: torch.Tensor) -> Iterator[tuple[int, int]]:
    """Yield the ranges of rows whose columns follow each other.

    >>> list(stretches(torch.tensor([3, 4, 5, 9, 10])))
    [(0, 3), (3, 5)]
    """
    breaks = (torch.nonzero(columns.diff() != 1).flatten() + 1).tolist()
    edges = [0, *breaks, len(columns)]
    yield from itertools.pairwise(edges)
