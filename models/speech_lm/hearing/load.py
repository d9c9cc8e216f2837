"""Pretrained speech encoders of transformers, by folder or hub id, and the digest of their weights."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.codecs.pcm import FRAMES_PER_COLUMN, Pcm

ENCODER_HOP = 320
"""Samples between two frames of all of these encoders: 50 a second."""
STACK = FRAMES_PER_COLUMN
"""Frames in a column."""
assert Pcm.HOP_SAMPLES == STACK * ENCODER_HOP
_FAMILIES = ("whisper", "wavlm", "hubert", "wav2vec2")


def load_encoder(name: str) -> Any:
    """Return an encoder of transformers by its folder or hub id.

    Raises:
        ValueError: the package or the weights are missing, or it is of another family or rate.
    """
    try:
        from transformers import AutoConfig, AutoModel
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise ValueError("an encoder needs a package: pip install 'hubbub[codecs]'") from error
    disable_progress_bar()  # a small encoder is there at once, and its bar would stand among a run's lines
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
