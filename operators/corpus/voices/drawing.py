"""Who says what: voices and texts on the sides of a split, and the order in which each voice says its texts.

Every draw has an address (`operators/rng.py`): the n-th text of a voice depends on the seed, the voice and the texts of
its side. Adding a voice leaves the lists of the others as they are; of the same hours, each says less of its list.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from operators.corpus.normalizers import normalize
from operators.corpus.voices.synthesizer import Synthesizer
from operators.errors import InputError
from operators.rng import rendezvous_order, rng


@dataclass(frozen=True)
class Part:
    """What one voice is to say."""

    family: str
    """As `load_synthesizer` takes it."""
    voice: str
    split: str
    texts: tuple[str, ...]
    """All texts of its side, in the order in which it says them."""
    duration_s: float
    """It ends with the text that reaches this."""

    @property
    def name(self) -> str:
        """FAMILY-VOICE: its folder, and the beginning of its ids."""
        return f"{self.family.partition(':')[0]}-{self.voice}"


def weights_of(listed: Sequence[str]) -> dict[str, float]:
    """Return the weights of synthesizers by name.

    >>> weights_of(["kokoro=0.2"])
    {'kokoro': 0.2}

    Raises:
        InputError: one is no NAME=NUMBER with a number above 0.
    """
    found = {}
    for one in listed:
        name, _, number = one.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            found[name] = 0.0
        if not 0 < found[name] < math.inf:
            raise InputError(f"--weights {one} is no NAME=NUMBER with a number above 0, such as kokoro=0.2")
    return found


@dataclass(frozen=True)
class Draw:
    """How texts are drawn for voices."""

    seed: int
    hours: float
    """Of speech in all, the same for each voice but for the weights."""
    test_share: float
    """Probability with which a voice, and a text, is of the test split."""
    mixtures: int = 0
    """Number of mixtures of two voices, of the synthesizers that can mix."""
    weights: Mapping[str, float] | None = None
    """Time of a voice of a synthesizer, as a multiple of that of others; 1 where it is not named."""

    def side(self, purpose: str, name: str) -> str:
        """Return the split that a person or a text is of: a draw by its name alone.

        >>> Draw(0, 1, 0.0).side("voice", "kokoro-af_heart")
        'train'
        """
        return "test" if rng(self.seed, f"{purpose}-side", name).random() < self.test_share else "train"

    def sides(self, people: Sequence[str]) -> set[str]:
        """Return the splits of the people of a voice; a voice of several is in none."""
        return {self.side("voice", person) for person in people}

    def voices(self, synthesizers: Mapping[str, Synthesizer]) -> list[tuple[str, str]]:
        """Return family and name of all voices, and of the drawn mixtures of two that are on the same side.

        Mixtures are of a woman's and a man's voice: a speaker encoder tells these from all others, but hardly one of
        two alike from either of them (docs/corpora.md).

        Raises:
            InputError: there are fewer mixtures than are wanted.
        """
        found = [(family, voice) for family, made in synthesizers.items() for voice in made.voices()]
        pairs = {
            f"{one}+{other}": family
            for family, made in synthesizers.items()
            if made.mixes
            for one, other in itertools.combinations(sorted(made.voices()), 2)
            if (about := made.about(f"{one}+{other}")).gender is None and len(self.sides(about.people)) == 1
        }
        if len(pairs) < self.mixtures:
            raise InputError(
                f"--mixtures {self.mixtures:,}: there are {len(pairs):,} pairs of a woman's and a man's voice on one "
                "side of the split"
            )
        names = sorted(pairs)
        order = rendezvous_order(f"{self.seed}:mixtures", names)[: self.mixtures]
        return found + [(pairs[name], name) for name in sorted(names[i] for i in order)]

    def parts(self, synthesizers: Mapping[str, Synthesizer], texts: Sequence[str]) -> list[Part]:
        """Return what each voice is to say.

        Args:
            synthesizers: by family, as `load_synthesizer` takes it.
            texts: each once.

        Raises:
            InputError: a split has voices and no texts, or the test split is wanted and has no voice.
        """
        voices = self.voices(synthesizers)
        sides: dict[str, list[str]] = {"train": [], "test": []}
        for text in texts:
            sides[self.side("text", normalize(text))].append(text)
        chosen = [self.sides(synthesizers[family].about(voice).people).pop() for family, voice in voices]
        for split in ("train", "test") if self.test_share else ("train",):
            if split not in chosen or not sides[split]:
                what = "text" if split in chosen else "voice"
                raise InputError(
                    f"no {what} falls into the {split} split by the draw of --seed {self.seed}; take more of them, "
                    "another seed or another --test-share (0: no test split)"
                )
        weights = [(self.weights or {}).get(family.partition(":")[0], 1.0) for family, _ in voices]
        return [
            Part(
                family,
                voice,
                split,
                self._order(family.partition(":")[0], voice, sides[split]),
                self.hours * 3600 * weight / sum(weights),
            )
            for (family, voice), split, weight in zip(voices, chosen, weights, strict=True)
        ]

    def _order(self, family: str, voice: str, texts: Sequence[str]) -> tuple[str, ...]:
        order = rendezvous_order(f"{self.seed}:texts:{family}-{voice}", [normalize(text) for text in texts])
        return tuple(texts[i] for i in order)
