"""Trainings on synthetic conversations: the project's own loop on packs made on the spot, without a data set."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from models.codecs.codec import CodecSpec, pack_codes
from models.config.header import Header
from models.config.options import Training
from models.config.shape import Shape, Vocabulary
from models.layouts import make_layout
from models.sequence.documents import GridSpec, PackedDocuments
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.model import SpeechLM
from models.training.metrics import StepRecord
from tests.models.support import Source, joined, train_flat

CODEC = CodecSpec(
    name="synthetic",
    sample_rate_hz=16_000,
    hop_samples=400,
    num_codebooks=80,
    codebook_size=16,
    bits=4,
    ordinal=True,
    causal=True,
    licence="none",
    weights_digest="0",
)
GRID = GridSpec(make_layout("parallel", CODEC.num_codebooks, CODEC.codebook_size, 1), 80, 16, 4)
WORDS = 200
"""Different text tokens of a synthetic conversation, each of which follows from the one before."""
VOCABULARY = Vocabulary(
    text_size=ByteTokenizer.FIRST_TEXT + WORDS, num_streams=CODEC.num_codebooks, codebook_size=16, ordinal=True
)


def conversation(seed: int, num_frames: int, num_tokens: int) -> PackedDocuments:
    """Return a document of audio and of text; the text, and the second half of the audio, are predicted.

    Each token follows from the one before, so that a model can learn the text, if not the audio.
    """
    rng = np.random.default_rng(seed)
    words = [int(rng.integers(WORDS))]
    while len(words) <= num_tokens:
        words.append((7 * words[-1] + 3) % WORDS)
    begin, end = 1 + num_frames, 1 + num_frames + num_tokens
    return PackedDocuments(
        pack_id=f"d{seed}",
        num_columns=end,
        cu_seqlens=np.array([0, end], np.int32),
        segments=np.array([[0, 0, 1], [1, 1, num_frames], [0, begin, num_tokens]], np.int32),
        text_tokens=np.array(words, np.int32) + ByteTokenizer.FIRST_TEXT,
        codes=pack_codes(rng.integers(0, CODEC.codebook_size, (CODEC.num_codebooks, num_frames)), CODEC.bits),
        loss_spans=np.array([[0, begin, end], [1, 1 + num_frames // 2, begin]], np.int32),
        loss_weights=np.array([1.0, 1 / CODEC.num_codebooks], np.float32),
    )


def conversations(number: int, capacity: int) -> list[PackedDocuments]:
    """Return packs, each filled up to its capacity by documents of random lengths."""
    rng, packs = np.random.default_rng(0), []
    for pack in range(number):
        documents: list[PackedDocuments] = []
        left = capacity
        while left >= 8:
            length = min(left, int(rng.integers(capacity // 8, capacity // 2)))
            length = left if left - length < 8 else length
            tokens = max(2, length // 3)
            documents.append(conversation(1000 * pack + len(documents), length - 1 - tokens, tokens))
            left -= length
        packs.append(joined(documents, f"p{pack}"))
    return packs


class StoppedError(Exception):
    """What ends a training that has been watched for long enough."""


def trained(
    model: SpeechLM,
    packs: list[PackedDocuments],
    config: Training,
    folder: Path,
    device: str,
    *,
    grid: GridSpec = GRID,
    on_step: Callable[[StepRecord], None] = lambda _: None,
) -> list[StepRecord]:
    """Train by `models.training.loop.train`, or on from where a folder's checkpoint is; return the steps done.

    `on_step` may raise `StoppedError`, as a kill would end it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header = Header(
        shape=model.shape,
        vocabulary=model.vocabulary,
        codec=CODEC,
        codec_weights=None,
        layout="parallel",
        group=1,
        tokenizer="synthetic",
        tokenizer_digest="0",
    )
    records: list[StepRecord] = []

    def keep(record: StepRecord) -> None:
        records.append(record)
        on_step(record)

    with suppress(StoppedError):
        train_flat(
            model, Source(packs), grid, config, seed=0, folder=folder, header=header, device=device, on_step=keep
        )
    return records


def small_model(shape: Shape) -> SpeechLM:
    """Return a model for synthetic conversations, with the same weights on every device."""
    return SpeechLM(shape, VOCABULARY).initialize(0)


def worst(one: list[StepRecord], other: list[StepRecord]) -> float:
    """Return the greatest relative difference of two trainings' losses, infinite where their steps differ."""
    if [record.step for record in one] != [record.step for record in other]:
        return float("inf")
    return max(abs(a.loss - b.loss) / abs(a.loss) for a, b in zip(one, other, strict=True))


def differs(one: SpeechLM, other: SpeechLM) -> float:
    """Return the greatest difference of two models' parameters."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    with torch.no_grad():
        return max(float((a - b).abs().max()) for a, b in pairs)
