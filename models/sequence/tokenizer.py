"""Text as integers, after the special tokens of the tasks: as bytes, or by a tokenizer that the user names."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any


class ByteTokenizer:
    """Maps text to UTF-8 bytes, with ids after those of the special tokens; every text can be encoded and decoded.

    Ids are part of every shard and checkpoint and never change. A task's documents begin with its own token: one of the
    constants here, or an id of `SPARE` that its file claims (operators/documents/tasks).

    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.decode(tokenizer.encode("it's ünder"))
    "it's ünder"
    """

    PAD = 0  # no text in this column; its embedding is zero
    END = 1
    ASR = 2
    CONTINUE = 3
    TEXT = 4
    CARRY = 5
    AUDIO_END = 6
    CHANGE = 7  # <sc> of utterances, <cc> of words
    ENROL = 8  # a voice sample follows
    AUDIO = 9  # audio follows: in asr_target the mixture, otherwise audio that is predicted
    INSTRUCTION = 10
    ASR_FIFO, ASR_TIMED, ASR_TOKEN, ASR_TARGET, ASR_CONTEXT = 11, 12, 13, 14, 15
    EXTRACT, SPEAK, DUPLEX, INTERLEAVE = 16, 17, 18, 19
    ASR_TALKER, ASR_INSTRUCTED = 20, 21
    SPARE = (22, 23)  # for new tasks
    FIRST_SPEAKER = 24
    MAX_SPEAKERS = 31
    FIRST_TEXT = FIRST_SPEAKER + MAX_SPEAKERS

    name = "bytes-2"
    file: Path | None = None

    @property
    def vocab_size(self) -> int:
        """Number of ids: special tokens and 256 bytes."""
        return self.FIRST_TEXT + 256

    @property
    def digest(self) -> str:
        """Digest of everything that the meaning of ids depends on."""
        meaning = f"{self.name}:{self.FIRST_SPEAKER}:{self.FIRST_TEXT}:{self.vocab_size}"
        return hashlib.blake2b(meaning.encode(), digest_size=16).hexdigest()

    def speaker(self, arrival: int) -> int:
        """Return the token of tag [s<arrival>]: of the speaker who came in as number `arrival`, counted from 0.

        Raises:
            ValueError: there are more speakers than tags.
        """
        if arrival >= self.MAX_SPEAKERS:
            raise ValueError(f"there are tags for {self.MAX_SPEAKERS} speakers, not for {arrival + 1}")
        return self.FIRST_SPEAKER + arrival

    def encode(self, text: str) -> list[int]:
        """Return one id per byte."""
        return [self.FIRST_TEXT + byte for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special ones are skipped, invalid UTF-8 is replaced."""
        return bytes(i - self.FIRST_TEXT for i in ids if i >= self.FIRST_TEXT).decode(errors="replace")

    def turns(self, ids: Sequence[int]) -> list[tuple[str, str]]:
        """Split serialized output at its speaker tags: [("s0", "first words"), ...], in order.

        Words before the first tag, which a model may produce, belong to s0.

        >>> t = ByteTokenizer()
        >>> t.turns([t.speaker(0), *t.encode("good day"), t.speaker(1), *t.encode("hello"), t.END])
        [('s0', 'good day'), ('s1', 'hello')]
        """
        texts = [(tag or "s0", " ".join(text.split())) for tag, text in self.split_at_tags(ids)]
        return [(tag, text) for tag, text in texts if text]

    def split_at_tags(self, ids: Sequence[int]) -> list[tuple[str | None, str]]:
        """Split serialized output at its speaker tags into (tag, text up to the next tag), the first without a tag.

        >>> t = ByteTokenizer()
        >>> t.split_at_tags([*t.encode("[0.00]"), t.speaker(0), *t.encode("good day"), t.END])
        [(None, '[0.00]'), ('s0', 'good day')]
        """
        found: list[tuple[str | None, list[int]]] = [(None, [])]
        for i in ids:
            if i == self.END:
                break
            if self.FIRST_SPEAKER <= i < self.FIRST_TEXT:
                found.append((f"s{i - self.FIRST_SPEAKER}", []))
            elif i >= self.FIRST_TEXT:
                found[-1][1].append(i)
        return [(tag, self.decode(part)) for tag, part in found]

    def split_at_changes(self, ids: Sequence[int]) -> list[str]:
        """Return the texts between change tokens, up to the end.

        >>> t = ByteTokenizer()
        >>> t.split_at_changes([*t.encode("good day"), t.CHANGE, *t.encode("hello"), t.END])
        ['good day', 'hello']
        """
        found: list[list[int]] = [[]]
        for i in ids:
            if i == self.END:
                break
            if i == self.CHANGE:
                found.append([])
            else:
                found[-1].append(i)
        return [" ".join(self.decode(part).split()) for part in found]

    def show(self, ids: Sequence[int], names: Mapping[int, str] | None = None) -> str:
        """Return ids in readable form, special ones in brackets.

        Args:
            ids: of any tokens.
            names: of tokens that the tokenizer has no name for, usually spare ones that tasks claim.

        >>> t = ByteTokenizer()
        >>> t.show([t.ASR, t.TEXT, t.speaker(1), *t.encode("hi"), t.END])
        '<asr><text>[s1]hi<end>'
        """
        names = {**_NAMES, **(names or {})}
        shown, held = [], []
        for i in [*ids, self.PAD]:
            if i >= self.FIRST_TEXT:
                held.append(i)
                continue
            if held:
                shown.append(self.decode(held))
                held = []
            if i >= self.FIRST_SPEAKER:
                shown.append(f"[s{i - self.FIRST_SPEAKER}]")
            elif i != self.PAD:
                shown.append(f"<{names.get(i, str(i))}>")
        return "".join(shown)


_NAMES = {
    value: name.lower()
    for name, value in vars(ByteTokenizer).items()
    if isinstance(value, int) and name.isupper() and not name.startswith(("FIRST", "MAX"))
}


class FileTokenizer(ByteTokenizer):
    """Maps text by a Hugging Face `tokenizer.json`; its ids follow our special tokens, which it need not contain."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ValueError: it is missing or not a tokenizer.json, or package tokenizers is not installed.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ValueError("a tokenizer file needs package tokenizers: pip install 'hubbub[codecs]'") from error
        try:
            data = path.read_bytes()
            self._tokenizer: Any = Tokenizer.from_str(data.decode())
            unknown = json.loads(data)["model"].get("unk_token")
        except Exception as error:
            raise ValueError(f"{path} is not a readable tokenizer.json: {error}") from error
        self.file = path
        self._hash = hashlib.blake2b(data, digest_size=8).hexdigest()
        self._unknown = None if unknown is None else self._tokenizer.token_to_id(unknown)
        self.name = f"file-{self._hash}"

    def has(self, token: str) -> bool:
        """Return whether the file has a token of this text."""
        return self._tokenizer.token_to_id(token) is not None

    @property
    def vocab_size(self) -> int:
        """Number of ids: special tokens and the file's, its added tokens included."""
        return self.FIRST_TEXT + int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Return the file's ids, shifted past the special tokens; none is added.

        Raises:
            ValueError: the tokenizer cannot encode the text.
        """
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if self._unknown is not None and self._unknown in ids:
            raise ValueError(f"the tokenizer cannot encode {text!r}: it has no token for part of it")
        return [self.FIRST_TEXT + i for i in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special ones are skipped."""
        return str(self._tokenizer.decode([i - self.FIRST_TEXT for i in ids if i >= self.FIRST_TEXT]))


class WhisperTokenizer(FileTokenizer):
    """Whisper's own tokenizer: words begin with their space, and times, `[1.24]`, are its tokens of times.

    Source: Radford et al. 2022, "Whisper", arXiv:2212.04356, section 2.3.
    """

    MARK = "<|notimestamps|>"
    """A token that only Whisper's files have; those of times follow it."""
    STEP_S, LAST_S = 0.02, 30.0
    """Between two tokens of times, and the last of them."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ValueError: it is missing, or not a tokenizer.json.
        """
        super().__init__(path)
        self._times_from = self.FIRST_TEXT + int(self._tokenizer.token_to_id(self.MARK)) + 1
        self.name = f"whisper-{self._hash}"

    @property
    def vocab_size(self) -> int:
        """Number of ids: special tokens, the file's and those of times, which the file does not list."""
        return self._times_from + round(self.LAST_S / self.STEP_S) + 1

    def encode(self, text: str) -> list[int]:
        """Return the ids of words and times; a time is the nearest one that has a token."""
        ids: list[int] = []
        for number, part in enumerate(_TIME.split(text)):
            if number % 2:
                step = min(round(float(part) / self.STEP_S), self.vocab_size - 1 - self._times_from)
                ids.append(self._times_from + step)
            elif part.strip():
                ids += super().encode(f" {part.strip()}")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, with times as `[1.24]`; special ones are skipped."""
        parts: list[str] = []
        words: list[int] = []
        for i in [*ids, self._times_from]:
            if i < self._times_from:
                words.append(i)
                continue
            parts += [super().decode(words), f"[{(i - self._times_from) * self.STEP_S:.2f}]"]
            words = []
        return "".join(parts[:-1])


_TIME = re.compile(r"\[(\d+\.\d\d)\]")


@lru_cache(maxsize=4)
def load_tokenizer(name: str) -> ByteTokenizer:
    """Return the tokenizer of a name: `bytes`, or the path of a tokenizer.json or its folder.

    Raises:
        ValueError: the file is missing or cannot be read.
    """
    if name == "bytes":
        return ByteTokenizer()
    path = Path(name).expanduser()
    return tokenizer_of(path / "tokenizer.json" if path.is_dir() else path)


def tokenizer_of(path: Path) -> FileTokenizer:
    """Return the tokenizer of a tokenizer.json: Whisper's, where it is one.

    Raises:
        ValueError: the file is missing or cannot be read.
    """
    plain = FileTokenizer(path)
    return WhisperTokenizer(path) if plain.has(WhisperTokenizer.MARK) else plain
