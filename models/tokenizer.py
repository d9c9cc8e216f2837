"""Text as bytes, and the special tokens that the tasks need; 294 ids, the same for everybody."""

import hashlib
from collections.abc import Sequence


class ByteTokenizer:
    """Maps text to UTF-8 bytes behind the special tokens; every text can be written and read back.

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
    FIRST_SPEAKER = 7
    MAX_SPEAKERS = 31
    FIRST_BYTE = FIRST_SPEAKER + MAX_SPEAKERS

    name = "bytes-1"
    vocab_size = FIRST_BYTE + 256

    @property
    def digest(self) -> str:
        """Digest of everything that gives an id its meaning."""
        meaning = f"{self.name}:{self.FIRST_SPEAKER}:{self.FIRST_BYTE}:{self.vocab_size}"
        return hashlib.blake2b(meaning.encode(), digest_size=16).hexdigest()

    def speaker(self, arrival: int) -> int:
        """Return the tag [s<arrival>] of the speaker who came in at this place.

        Raises:
            ValueError: there are more speakers than tags.
        """
        if arrival >= self.MAX_SPEAKERS:
            raise ValueError(f"there are tags for {self.MAX_SPEAKERS} speakers, not for {arrival + 1}")
        return self.FIRST_SPEAKER + arrival

    def encode(self, text: str) -> list[int]:
        """Return one id a byte."""
        return [self.FIRST_BYTE + byte for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of byte ids; special ids are skipped, broken characters replaced."""
        return bytes(i - self.FIRST_BYTE for i in ids if i >= self.FIRST_BYTE).decode(errors="replace")

    def turns(self, ids: Sequence[int]) -> list[tuple[str, str]]:
        """Split serialized output at its speaker tags: [("s0", "first words"), ...], in order.

        Words before the first tag, which a model may produce, belong to s0.

        >>> t = ByteTokenizer()
        >>> t.turns([t.speaker(0), *t.encode("good day"), t.speaker(1), *t.encode("hello"), t.END])
        [('s0', 'good day'), ('s1', 'hello')]
        """
        found: list[tuple[str, list[int]]] = []
        for i in ids:
            if i == self.END:
                break
            if self.FIRST_SPEAKER <= i < self.FIRST_BYTE:
                found.append((f"s{i - self.FIRST_SPEAKER}", []))
            elif i >= self.FIRST_BYTE:
                if not found:
                    found.append(("s0", []))
                found[-1][1].append(i)
        texts = [(tag, " ".join(self.decode(part).split())) for tag, part in found]
        return [(tag, text) for tag, text in texts if text]
