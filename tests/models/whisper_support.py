"""A small random Whisper with its tokenizer, and documents for it."""

import json
from dataclasses import replace

import numpy as np
import torch

from models.codecs import load_codec
from models.codecs.codec import pack_codes
from models.config.shape import Shape, Vocabulary
from models.layouts import make_layout
from models.sequence.documents import GridSpec, PackedDocuments
from models.sequence.tokenizer import load_tokenizer
from models.speech_lm.hearing.load import encoder_digest
from models.speech_lm.pretrained.start import build_model, load_weights, read_shape

PCM = load_codec("pcm")
GRID = GridSpec(make_layout("parallel", 1280, 1 << 16), 1280, 1 << 16, 16)


def save_tokenizer(folder, languages=("en", "de")):
    """Write a tokenizer of bytes with Whisper's special tokens; return the number of ids with those of times."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["endoftext", "startoftranscript", *languages, *(["transcribe"] if languages else []), "notimestamps"]
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", special=True) for name in names])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size() + 1501


def save_whisper(folder, languages=("en", "de")):
    """Write a small random Whisper with every value far from zero; return it."""
    import transformers

    folder.mkdir(exist_ok=True)
    size = save_tokenizer(folder, languages)
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=40,
        num_mel_bins=20,
        max_source_positions=100,
        max_target_positions=64,
        vocab_size=size,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Small embeddings and biases would hide what is left out.
            parameter.copy_(torch.randn_like(parameter) * (0.5 if "embed" in name or parameter.dim() < 2 else 0.25))
    model.save_pretrained(folder)
    return model


def load(folder, **shape):
    """Return the speech-LLM that starts from a Whisper folder, and its tokenizer."""
    tokenizer = load_tokenizer(str(folder))
    vocabulary = Vocabulary(
        text_size=tokenizer.vocab_size,
        num_streams=1280,
        codebook_size=1 << 16,
        ordinal=True,
        encoder_digest=encoder_digest(str(folder)),
    )
    base = Shape(language=shape.pop("language", "en"), encoder_window=shape.pop("encoder_window", "content"))
    model = build_model(replace(read_shape(folder, base), **shape), vocabulary).initialize(0)
    load_weights(folder, model)
    return model, tokenizer


def document(seed, tokenizer, text="good day", seconds=0.5, answer=True):
    """A document of task asr: prompt with sound, and text as its answer."""
    rng = np.random.default_rng(seed)
    codes = PCM.encode((0.1 * rng.standard_normal(int(seconds * 16_000))).astype(np.float32))
    columns = codes.shape[1] if seconds else 0
    words = [*tokenizer.encode(text), tokenizer.END] if answer else []
    tokens = [tokenizer.ASR, tokenizer.TEXT, *words]
    total = columns + len(tokens)
    segments = [[0, 0, 1], [1, 1, columns], [0, 1 + columns, len(tokens) - 1]]
    return PackedDocuments(
        pack_id=f"d{seed}",
        num_columns=total,
        cu_seqlens=np.array([0, total], np.int32),
        segments=np.array([one for one in segments if one[2]], np.int32),
        text_tokens=np.array(tokens, np.int32),
        codes=pack_codes(codes[:, :columns], 16),
        loss_spans=np.array([[0, 2 + columns, total]] if words else np.zeros((0, 3)), np.int32),
        loss_weights=np.ones(1 if words else 0, np.float32),
    )


def mel_of(model, wav):
    """Return what Whisper's own feature extractor makes of a waveform, for the model's window."""
    from transformers import WhisperFeatureExtractor

    window_s = model.config.max_source_positions / 50
    extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins, chunk_length=window_s)
    return extractor(wav, sampling_rate=16_000, return_tensors="pt").input_features


def ids_of(folder, *names):
    """Return the ids of special tokens by name."""
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    known = {one["content"]: one["id"] for one in added}
    return [known[f"<|{name}|>"] for name in names]
