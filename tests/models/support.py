"""Small packs and models for the tests of `models`."""

import json
from dataclasses import asdict, replace

import numpy as np
import torch

from models.codecs.codec import CodecSpec, pack_codes
from models.config.shape import Shape, Vocabulary
from models.layouts import make_layout
from models.sequence.documents import GridSpec, PackedDocuments
from models.speech_lm.model import SpeechLM
from models.training.order import Span

K, V = 4, 16
CODEC = CodecSpec(
    name="toy",
    sample_rate_hz=16_000,
    hop_samples=400,
    num_codebooks=K,
    codebook_size=V,
    bits=4,
    ordinal=True,
    causal=True,
    licence="none",
    weights_digest="0",
)
SHAPE = Shape(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=48)
TEXT_SIZE = 40


def grid_spec(layout="parallel", group=1):
    return GridSpec(make_layout(layout, K, V, group), K, V, 4)


def vocabulary_of(grid):
    layout = grid.layout
    return Vocabulary(
        text_size=TEXT_SIZE,
        num_streams=layout.num_streams,
        codebook_size=layout.vocab_size,
        ordinal=layout.vocab_size == V,
        depth=layout.is_depth,
    )


def model_for(grid, seed=0, dtype=torch.float64, **shape):
    vocabulary = vocabulary_of(grid)
    return SpeechLM(replace(SHAPE, **shape), vocabulary).initialize(seed).to(dtype)


def document(grid, seed, num_frames=None, num_text=None):
    """One document with text before and after its audio, and losses on both."""
    rng = np.random.default_rng(seed)
    num_frames = int(rng.integers(1, 12)) if num_frames is None else num_frames
    num_text = int(rng.integers(1, 9)) if num_text is None else num_text
    columns = grid.layout.num_columns(num_frames)
    spans = [[0, 1 + columns, 1 + columns + num_text]]
    weights = [1.0]
    if columns > 1:
        spans.append([1, 1 + columns // 2, 1 + columns])
        weights.append(1 / grid.layout.num_streams)
    return PackedDocuments(
        pack_id=f"d{seed}",
        num_columns=1 + columns + num_text,
        cu_seqlens=np.array([0, 1 + columns + num_text], np.int32),
        segments=np.array([[0, 0, 1], [1, 1, num_frames], [0, 1 + columns, num_text]], np.int32),
        text_tokens=rng.integers(1, TEXT_SIZE, 1 + num_text).astype(np.int32),
        codes=pack_codes(rng.integers(0, V, (K, num_frames)), 4),
        loss_spans=np.array(spans, np.int32),
        loss_weights=np.array(weights, np.float32),
    )


def packed(row):
    """A document, a row of DOCUMENTS, as a pack of its own."""
    spans = [[s["kind"], s["start_column"], s["end_column"]] for s in row["loss_spans"]]
    return PackedDocuments(
        pack_id=row["document_id"],
        num_columns=row["num_columns"],
        cu_seqlens=np.array([0, row["num_columns"]], np.int32),
        segments=np.array([[s["kind"], s["start_column"], s["length"]] for s in row["segments"]], np.int32),
        text_tokens=np.array(row["text_tokens"], np.int32),
        codes=row["codes"],
        loss_spans=np.array(spans, np.int32).reshape(-1, 3),
        loss_weights=np.array([s["weight"] for s in row["loss_spans"]], np.float32),
    )


def joined(documents, name="pack"):
    """One pack of several documents."""
    starts = np.cumsum([0, *(d.num_columns for d in documents)])

    def moved(arrays):
        return np.concatenate(
            [a + np.array([0, s, 0 if a.shape[1] == 3 and kind == "segments" else s]) for kind, a, s in arrays]
        )

    return PackedDocuments(
        pack_id=name,
        num_columns=int(starts[-1]),
        cu_seqlens=starts.astype(np.int32),
        segments=moved([("segments", d.segments, s) for d, s in zip(documents, starts, strict=False)]).astype(np.int32),
        text_tokens=np.concatenate([d.text_tokens for d in documents]),
        codes=b"".join(bytes(d.codes) for d in documents),
        loss_spans=moved([("spans", d.loss_spans, s) for d, s in zip(documents, starts, strict=False)]).astype(
            np.int32
        ),
        loss_weights=np.concatenate([d.loss_weights for d in documents]),
    )


def spans(sizes, grouped=False):
    """Shards of some sizes, one behind the other."""
    return tuple(
        Span(first, size, grouped) for first, size in zip([0, *np.cumsum(sizes).tolist()], sizes, strict=False)
    )


class Source:
    """Packs in memory, as a `models.training.loader.PackSource`."""

    digest = "toy" + "0" * 61  # as long as a real one

    def __init__(self, packs, shard_sizes=None, components=None):
        self.packs = packs
        self.components = components or {"all": spans(shard_sizes or (len(packs),))}
        self.read = []

    def size(self, index):
        pack = self.packs[index]
        return pack.num_columns, int((np.diff(pack.cu_seqlens).astype(np.int64) ** 2).sum())

    def prefetch(self, indices):
        pass

    def __getitem__(self, index):
        self.read.append(self.packs[index].pack_id)
        return self.packs[index]


def header(grid):
    from models.config.header import Header

    return Header(
        shape=SHAPE,
        vocabulary=vocabulary_of(grid),
        codec=CODEC,
        codec_weights=None,
        layout="parallel",
        group=1,
        tokenizer="toy",
        tokenizer_digest="0",
        lineage=json.loads(json.dumps({"codec": asdict(CODEC)})),
    )


def train_flat(model, source, grid, config, *, seed, folder, header, url=None, validation=None, **options):
    """`models.training.loop.train`, its groups of arguments spread out."""
    from models.training.loop import Hooks, RunFolder, train
    from models.training.step import Process

    process = {name: options.pop(name) for name in ("rank", "world_size", "device") if name in options}
    place = RunFolder(folder=folder, header=header, url=url)
    hooks = Hooks(**options)
    mine = Process(**process)
    return train(model, source, grid, config, seed=seed, place=place, validation=validation, process=mine, hooks=hooks)


def save_small_whisper(folder):
    """Write a small random Whisper to a folder; return its path."""
    import transformers

    config = transformers.WhisperConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=20,
        max_source_positions=100,
        vocab_size=60,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    transformers.WhisperModel(config).save_pretrained(folder)
    return str(folder)
