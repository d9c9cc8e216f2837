"""The recipe: everything that a result depends on, as frozen dataclasses. Nothing is run here."""

from dataclasses import dataclass, field

from models.config.options import Training
from models.config.settings import BY_CONTENT, NO_RESULT, key_settings
from models.config.shape import SIZES, Shape
from operators.corpus.cast import Casting
from operators.corpus.joined import Join
from operators.corpus.sets.layouts import LayoutName
from operators.corpus.stories import Stories
from operators.digest import digest
from operators.documents.compose import Compose
from operators.packing.pack import Pack
from operators.simulate.converse import Converse
from operators.simulate.render import Render
from operators.simulate.rooms import Place
from operators.tokenize.encode import Encode


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Recordings that are used."""

    manifests: tuple[str, ...] = field(default=(), metadata=BY_CONTENT)
    """Files or folders: lhotse recordings and supervisions, cuts, Shar, NeMo or plain JSONL; PATH or SPLIT=PATH."""
    recorded: tuple[str, ...] = field(default=(), metadata=BY_CONTENT)
    """Recorded conversations: lhotse manifests of recordings with several speakers' supervisions, or folders of sound
    files with STM or RTTM files; PATH or SPLIT=PATH. Without splits, recordings are drawn for the test split."""
    layout: LayoutName = "labels"
    """How `recorded` is laid out: STM, RTTM or lhotse (labels), a list of given mixtures, or a set's own layout."""
    audio_roots: tuple[str, ...] = field(default=(), metadata=BY_CONTENT)
    """Folders that audio paths of `recorded` start from, besides the list's own: LibriSpeech, WHAM."""
    join: Join | None = field(default=None, metadata=BY_CONTENT)
    """First join each speaker's utterances to longer ones, in the output folder: for corpora of single words."""
    stories: Stories | None = field(default=None, metadata=BY_CONTENT)
    """Use a corpus of stories spoken by espeak-ng instead (written to the output folder)."""
    where: str | None = None
    """Keep utterances for which this holds: "gender == 'f' and duration_s < 20"."""
    language: str | None = None
    """Language of rows without one."""
    licence: str | None = None
    """Licence of rows without one."""
    allow_licences: tuple[str, ...] = field(default=(), metadata=NO_RESULT)
    """Licences that may be used; any where none is given. Others stop a run before work starts."""
    max_duration_s: float = 60.0
    """Longer utterances are quarantined; in seconds."""
    min_utterances_per_speaker: int = 2
    """Speakers with fewer are quarantined: they could never take two turns."""
    max_bad_share: float = field(default=0.0, metadata=NO_RESULT)
    """Share of rows that may be quarantined before the run stops."""


@dataclass(frozen=True, kw_only=True)
class Partitions:
    """Units of work, retry and commit. Real corpora: about ten hours of audio, 256-512 MB of packs."""

    conversations_per_partition: int = 2000
    """Conversations in a partition of `conversations` and `codes`."""
    recordings_per_partition: int = 20
    """Recorded conversations in a partition: half-hour meetings make ten hours."""
    partitions_per_pack_group: int = 1
    """Partitions of codes whose documents are packed together into one shard."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How checkpoints are evaluated."""

    max_tokens: int | None = None
    """Longest transcript of a window, in tokens; 20 for each second of the window by default, which is short for
    scripts of several bytes a letter with the tokenizer of bytes. Transcripts that reach it are cut, and counted."""
    batch_size: int = field(default=16, metadata=NO_RESULT)
    """Windows decoded at once."""
    constrain: bool = True
    """Whether transcripts keep to the task's grammar: tags in order of arrival, times that do not go back."""
    untrained: bool = field(default=True, metadata=NO_RESULT)
    """Whether the untrained model is evaluated too, as a baseline."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a result depends on, and nothing else."""

    name: str = field(default="custom", metadata=NO_RESULT)
    """Name of the recipe and of its output folder."""
    seed: int = 0
    """Root of all randomness."""
    corpus: Corpus = field(default_factory=Corpus)
    casting: Casting = field(default_factory=Casting)
    converse: Converse = field(default_factory=Converse)
    place: Place = field(default_factory=Place)
    render: Render = field(default_factory=Render)
    encode: Encode = field(default_factory=Encode)
    compose: Compose = field(default_factory=Compose)
    pack: Pack = field(default_factory=Pack)
    partitions: Partitions = field(default_factory=Partitions)
    model: Shape = field(default_factory=lambda: SIZES["tiny"])
    train: Training = field(default_factory=Training)
    evaluate: Evaluation = field(default_factory=Evaluation)

    @property
    def digest(self) -> str:
        """Hash of everything in the recipe that changes results; speed and bookkeeping do not make another recipe."""
        return digest(key_settings(self))[:32]
