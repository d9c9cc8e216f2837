"""Whisper from a folder of transformers (config.json, model.safetensors, tokenizer.json), decoded greedily."""

import json
from collections.abc import Sequence
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.digest import digest, digest_file
from operators.errors import InputError
from operators.evaluate.recognizers.recognizer import RATE_HZ

_MULTILINGUAL = 51_865
"""Size of the vocabularies that have tokens of languages; those of English alone are smaller."""

_FILES = ("config.json", "model.safetensors", "tokenizer.json")
_AT_ONCE = 8


class WhisperRecognizer:
    """Words of stretches up to 30 s: greedily, without times, without the text before, in a known or detected language.

    Source: Radford et al. 2022, "Robust speech recognition via large-scale weak supervision".
    """

    longest_s = 30.0

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Take a folder.

        Raises:
            InputError: a file is missing in it, or it holds another model.
        """
        for name in _FILES:
            if not (folder / name).is_file():
                raise InputError(
                    f"evaluate.recognizers: {folder} has no {name}; it must be the folder of a Whisper model as "
                    "transformers saves it"
                )
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
        if kind != "whisper":
            raise InputError(f"evaluate.recognizers: {folder} holds a model of type {kind}, not whisper")
        self.folder, self.device = folder, device
        self.name = folder.resolve().name

    @cached_property
    def digest(self) -> str:
        """Digest of the folder's files."""
        return "whisper-" + digest([digest_file(self.folder / name) for name in _FILES])[:32]

    @cached_property
    def _model(self) -> Any:
        try:
            from transformers import WhisperForConditionalGeneration
            from transformers.utils import logging
        except ImportError as error:
            raise InputError(
                "evaluate.recognizers: Whisper needs transformers: pip install 'hubbub[codecs]'"
            ) from error
        logging.disable_progress_bar()
        model: Any = WhisperForConditionalGeneration.from_pretrained(
            str(self.folder), use_safetensors=True, local_files_only=True
        )
        return model.eval().to(self.device)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(tokenizer_file=str(self.folder / "tokenizer.json"))

    def _id(self, token: str) -> int | None:
        """Return a special token's id; None where the vocabulary has none."""
        found: int | None = self._tokenizer.get_vocab().get(f"<|{token}|>")
        return found

    @property
    def _is_multilingual(self) -> bool:
        return bool(self._model.config.vocab_size >= _MULTILINGUAL)

    def _prompt(self, language: str) -> list[int]:
        names = ["startoftranscript", *([language, "transcribe"] if self._is_multilingual else []), "notimestamps"]
        return [one for one in map(self._id, names) if one is not None]

    def recognize(self, stretches: Sequence[NDArray[np.int16]], languages: Sequence[str | None]) -> list[str]:
        """Return the words of each stretch; see `Recognizer`.

        Raises:
            InputError: the model does not know a language.
        """
        import torch
        from transformers import WhisperFeatureExtractor

        extract = WhisperFeatureExtractor(feature_size=self._model.config.num_mel_bins)
        found = [""] * len(stretches)
        # Answers of similar length together: a batch is decoded until its longest one ends.
        order = sorted((i for i in range(len(stretches)) if len(stretches[i])), key=lambda i: len(stretches[i]))
        with torch.inference_mode():
            for start in range(0, len(order), _AT_ONCE):
                chosen = order[start : start + _AT_ONCE]
                wavs = [stretches[i].astype(np.float32) / 32768 for i in chosen]
                features = extract(wavs, sampling_rate=RATE_HZ, return_tensors="pt").input_features.to(self.device)
                encoded = self._model.get_encoder()(features)[0]
                spoken = [self._language(languages[i], encoded[n : n + 1]) for n, i in enumerate(chosen)]
                for language in sorted(set(spoken)):
                    places = [n for n, one in enumerate(spoken) if one == language]
                    for n, text in zip(places, self._decode(encoded[places], language), strict=True):
                        found[chosen[n]] = text
        return found

    def _language(self, language: str | None, encoded: Any) -> str:
        """Return the code of a stretch's language: as given, or the likeliest by its encoded sound (1, T, width)."""
        import torch

        if not self._is_multilingual:
            if language and language.lower().split("-")[0] != "en":
                raise InputError(f"evaluate.recognizers: {self.name} knows English, not {language}")
            return "en"
        if language:
            code = language.lower().split("-")[0]
            if self._id(code) is None:
                raise InputError(f"evaluate.recognizers: {self.name} does not know language {language}")
            return code
        # Languages stand between the start of a transcript and the first of the tasks.
        first, last = self._id("startoftranscript"), self._id("translate")
        assert first is not None
        assert last is not None
        logits = self._model(encoder_outputs=(encoded,), decoder_input_ids=torch.tensor([[first]], device=self.device))
        best = first + 1 + int(logits.logits[0, -1, first + 1 : last].argmax())
        return str(self._tokenizer.convert_ids_to_tokens(best)).strip("<|>")

    def _decode(self, encoded: Any, language: str) -> list[str]:
        """Return the words of encoded stretches (B, T, width), each token the likeliest after those before."""
        import torch

        prompt = self._prompt(language)
        end = self._id("endoftext")
        tokens = torch.tensor([prompt] * len(encoded), device=self.device)
        most = int(self._model.config.max_target_positions) - len(prompt)
        answers: list[list[int]] = [[] for _ in range(len(encoded))]
        going, past = torch.ones(len(encoded), dtype=torch.bool, device=self.device), None
        # Newer versions of transformers call it by another name.
        cache = "cache" if "cache" in signature(self._model.forward).parameters else "past_key_values"
        for step in range(most):
            made = self._model(encoder_outputs=(encoded,), decoder_input_ids=tokens, use_cache=True, **{cache: past})
            past, logits = getattr(made, cache), made.logits[:, -1].clone()
            # No special token but the end, which is not first.
            logits[:, int(end or 0) + 1 :] = float("-inf")
            if step == 0:
                logits[:, end] = float("-inf")
            best = logits.argmax(dim=-1)
            going &= best != end
            if not going.any():
                break
            for n in going.nonzero()[:, 0].tolist():
                answers[n].append(int(best[n]))
            tokens = best[:, None]
        return [str(self._tokenizer.decode(answer)).strip() for answer in answers]
