"""SNAC: codes at several rates, interleaved into frames at the slowest rate.

A frame holds one code of the first level, two of the second and four of the third, in the order 1, 2a, 3a, 3b, 2b, 3c,
3d: by time, coarse before fine. Source: Siuzdak et al. 2024, "SNAC: Multi-Scale Neural Audio Codec", arXiv:2410.14411.
"""

import hashlib
import json
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.codecs.codec import CodecEntry, CodecSpec


def interleaved_order(strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (level, position) of each code of a frame, a code before the finer codes of its time span.

    Args:
        strides: of each level, coarse to fine, relative to the finest.

    >>> interleaved_order((4, 2, 1))
    [(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (2, 2), (2, 3)]
    """

    def below(level: int, position: int) -> list[tuple[int, int]]:
        if level + 1 == len(strides):
            return [(level, position)]
        ratio = strides[level] // strides[level + 1]
        return [(level, position)] + [x for i in range(ratio) for x in below(level + 1, position * ratio + i)]

    return below(0, 0)


class Snac:
    """Runs the `snac` package's model from a local folder with config.json and safetensors."""

    def __init__(self, weights: str, device: str = "cpu") -> None:
        """Load the weights.

        Raises:
            ValueError: the package or a file is missing, or a stride is not a multiple of the next.
        """
        try:
            from snac import SNAC
        except ImportError as error:
            raise ValueError("codec snac needs a package: pip install 'hubbub[codecs]'") from error
        from safetensors.torch import load_file

        folder = Path(weights)
        missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
        if missing:
            hint = ""
            if (folder / "pytorch_model.bin").is_file():
                hint = "; its pytorch_model.bin is a pickle and is not read: convert it to safetensors once"
            raise ValueError(f"codec snac: {folder} lacks {', '.join(missing)}{hint}")
        self.model: Any = SNAC(**json.loads((folder / "config.json").read_text()))
        self.model.load_state_dict(load_file(str(folder / "model.safetensors")))
        self.model.eval()
        self.device = device
        self.strides = tuple(int(stride) for stride in self.model.vq_strides)
        if any(a % b for a, b in zip(self.strides, self.strides[1:], strict=False)):
            raise ValueError(f"codec snac: each of the strides {self.strides} must be a multiple of the next")
        self.order = interleaved_order(self.strides)

    @property
    def _hop(self) -> int:
        return int(self.model.hop_length) * self.strides[0] // self.strides[-1]

    @cached_property
    def spec(self) -> CodecSpec:
        """The codec's fixed properties."""
        state = hashlib.blake2b(digest_size=32)
        for name, tensor in sorted(self.model.state_dict().items()):
            state.update(name.encode())
            state.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
        return CodecSpec(
            name="snac",
            sample_rate_hz=int(self.model.sampling_rate),
            hop_samples=self._hop,
            num_codebooks=len(self.order),
            codebook_size=int(self.model.codebook_size),
            bits=8 if self.model.codebook_size <= 256 else 16,
            ordinal=False,
            causal=False,
            licence="MIT",
            weights_digest=state.hexdigest(),
        )

    def num_frames(self, num_samples: int) -> int:
        """Return ceil(num_samples / hop), a hop being the duration of one code of the slowest level."""
        return -(-num_samples // self._hop)

    @torch.no_grad()
    def encode(self, wav: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return codes (K, T) of a waveform (N,) in [-1, 1].

        Raises:
            ValueError: the waveform is not one-dimensional, or holds NaN or infinity.
        """
        if wav.ndim != 1 or not np.isfinite(wav).all():
            raise ValueError("snac takes one channel (N,) without NaN or infinity")
        frames = self.num_frames(len(wav))
        if not frames:
            return np.zeros((len(self.order), 0), np.uint16)
        self.model.to(self.device)  # not before: a machine that only plans may have no GPU
        levels = self.model.encode(torch.from_numpy(wav.astype(np.float32))[None, None].to(self.device))
        codes_per_frame = [self.strides[0] // stride for stride in self.strides]
        grids = [
            level[0].cpu().numpy().reshape(-1, number)[:frames]
            for level, number in zip(levels, codes_per_frame, strict=True)
        ]
        return np.stack([grids[level][:, place] for level, place in self.order]).astype(np.uint16)

    @torch.no_grad()
    def decode(self, codes: NDArray[np.uint16], num_samples: int) -> NDArray[np.float32]:
        """Return the waveform (num_samples,) of codes (K, T)."""
        if not codes.shape[1]:
            return np.zeros(num_samples, np.float32)
        # The attention needs whole windows: frames of zeros are appended and their audio is cut off.
        window = int(self.model.attn_window_size or 1)
        unit = math.lcm(self.strides[0], window) // self.strides[0]
        frames = -(-codes.shape[1] // unit) * unit
        padded = np.pad(codes.astype(np.int64), ((0, 0), (0, frames - codes.shape[1])))
        levels = [np.zeros((frames, self.strides[0] // stride), np.int64) for stride in self.strides]
        for row, (level, place) in zip(padded, self.order, strict=True):
            levels[level][:, place] = row
        self.model.to(self.device)
        waveform = self.model.decode([torch.from_numpy(level.reshape(1, -1)).to(self.device) for level in levels])
        wav = waveform.reshape(-1).cpu().numpy()
        return np.asarray(np.pad(wav, (0, max(0, num_samples - len(wav))))[:num_samples], dtype=np.float32)


def _example(folder: Path) -> str:
    from safetensors.torch import save_file
    from snac import SNAC

    torch.manual_seed(0)
    config = {
        "sampling_rate": 24_000,
        "encoder_dim": 8,
        "encoder_rates": [2, 4, 8, 8],
        "decoder_dim": 64,
        "decoder_rates": [8, 8, 4, 2],
        "attn_window_size": None,
        "codebook_size": 64,
        "codebook_dim": 4,
        "vq_strides": [4, 2, 1],
        "noise": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    state = {name: tensor.contiguous() for name, tensor in SNAC(**config).state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return str(folder)


CODEC = CodecEntry(
    load=lambda weights, _, device: Snac(weights, device),
    about="codes at three rates, interleaved 1, 2a, 3a, 3b, 2b, 3c, 3d",
    runs_on_gpu=True,
    package="snac",
    example=_example,
)
