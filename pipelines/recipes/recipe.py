"""The recipe: everything that a result depends on, as frozen dataclasses. Nothing is run here."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from models.config.options import Training
from models.config.settings import BY_CONTENT, NO_RESULT, key_settings
from models.config.shape import SIZES, Shape
from models.config.values import FILE_NAME, SEED, Checked, within
from operators.corpus.cast import Casting
from operators.corpus.joined import Join
from operators.corpus.manifest import SharedSpeakers
from operators.corpus.sets.layouts import LayoutName
from operators.corpus.stories import Stories
from operators.digest import digest
from operators.documents.compose import Compose
from operators.documents.tasks import TASKS, TaskName
from operators.errors import InputError
from operators.evaluate.options import BaselineName, Cut, Diarization, JoinName
from operators.packing.pack import Pack
from operators.simulate.converse import Converse
from operators.simulate.render import Render
from operators.simulate.rooms import Place
from operators.tokenize.encode import Encode
from operators.tokenize.features import Features
from pipelines.recipes.phase import Phase


@dataclass(frozen=True, kw_only=True)
class Corpus(Checked, section="corpus", error=InputError):
    """Recordings that are used."""

    manifests: tuple[str, ...] = field(default=(), metadata=BY_CONTENT)
    """Files or folders: NeMo, lhotse or plain manifests, LibriSpeech, VCTK, Common Voice, Kaldi, audiofolder,
    WebDataset, WAV with TXT ... (docs/corpora.md); PATH or SPLIT=PATH, where SPLIT is train, validation (or dev, valid)
    or test."""
    recorded: tuple[str, ...] = field(default=(), metadata=BY_CONTENT)
    """Recorded conversations: manifests of recordings with several speakers' turns, or folders of sound files with STM,
    TextGrid, CTM or RTTM files; PATH or SPLIT=PATH. Without splits, recordings are drawn for the test split."""
    layout: LayoutName = "labels"
    """How `recorded` is laid out: STM, RTTM or lhotse (labels), a list of given mixtures, or a set's own layout."""
    audio_roots: tuple[str, ...] = field(default=(), metadata=BY_CONTENT)
    """Folders that audio paths of `recorded` start from, besides the list's own: LibriSpeech, WHAM."""
    join: Join | None = field(default=None, metadata=BY_CONTENT)
    """First join each speaker's utterances to longer ones, in the output folder: for corpora of single words."""
    stories: Stories | None = field(default=None, metadata=BY_CONTENT)
    """Use a corpus of stories spoken by espeak-ng instead (written to the output folder)."""
    map: tuple[str, ...] = field(default=(), metadata=BY_CONTENT)
    """Fields of rows that the corpus calls otherwise, as FIELD=NAME: text=transcription speaker=reader."""
    speaker_from: str | None = field(default=None, metadata=BY_CONTENT)
    """Where rows name no speaker, the rule that finds it in the path of the audio: folder (the file's), prefix (of the
    file's name, up to the first - or _), or a regular expression, whose first group is the speaker."""
    where: str | None = None
    """Keep utterances for which this holds: "gender == 'f' and duration_s < 20"."""
    shared_speakers: SharedSpeakers = field(default="auto", metadata=BY_CONTENT)
    """Whether one speaker id in several folders is one person: always, never, or (auto) where one folder is inside
    the other, or they are named as splits beside each other (train=DIR/a test=DIR/b). Others are called ID@FOLDER."""
    language: str | None = None
    """Language of rows without one."""
    licence: str | None = None
    """Licence of rows without one."""
    allow_licences: tuple[str, ...] = field(default=(), metadata=NO_RESULT)
    """Licences that may be used; any where none is given. Others stop a run before work starts."""
    max_duration_s: float = field(default=60.0, metadata=within(0, 86_400, "s", open_at="low"))
    """Longer utterances are quarantined; in seconds."""
    min_utterances_per_speaker: int = field(default=2, metadata=within(0, 10**6, "utterances"))
    """Speakers with fewer are quarantined: they could never take two turns."""
    max_bad_share: float = field(default=0.0, metadata=NO_RESULT | within(0, 1))
    """Share of rows that may be quarantined before the run stops."""

    def rules(self) -> Iterator[str]:
        """Check the values together."""
        if self.audio_roots and not self.recorded and self.layout == "labels":
            yield "corpus.audio_roots are folders of corpus.recorded, which names nothing"


@dataclass(frozen=True, kw_only=True)
class Partitions(Checked, section="partitions", error=InputError):
    """Units of work, retry and commit. Real corpora: about ten hours of audio, 256-512 MB of packs."""

    conversations_per_partition: int = field(default=2000, metadata=within(1, 10**7))
    """Conversations in a partition of `conversations` and `codes`."""
    recordings_per_partition: int = field(default=20, metadata=within(1, 10**7))
    """Recorded conversations in a partition: half-hour meetings make ten hours."""
    partitions_per_pack_group: int = field(default=1, metadata=within(1, 10**6))
    """Partitions of codes whose documents are packed together into one shard."""


@dataclass(frozen=True, kw_only=True)
class Evaluation(Checked, section="evaluate", error=InputError):
    """How checkpoints are evaluated."""

    tasks: tuple[TaskName, ...] = field(default=(), metadata=BY_CONTENT)
    """Tasks that are asked and scored, each by its own measure; all that the recipe trains by default."""
    normalizer: Literal["none", "basic", "whisper-english", "chime8"] = field(default="basic", metadata=BY_CONTENT)
    """Text normalizer of references and hypotheses when they are scored."""
    slices: tuple[str, ...] = field(
        default=("overlap", "gap_s", "turn_length_s", "gender", "text", "room", "distance_m", "snr_db"),
        metadata=BY_CONTENT,
    )
    """Columns by which scores of conversations are given apart, besides the number of speakers: overlap, turn_length_s,
    gap_s, gender, language, origin, text (seen in training or not), room, t60_s, distance_m, snr_db, or any column of
    manifests and lists. Those with one value in all conversations are left out."""
    baselines: tuple[BaselineName, ...] = field(default=("no-speakers", "tokenizer"), metadata=BY_CONTENT)
    """What is scored beside the checkpoints: the reference's words by one speaker for all (no-speakers), and through
    the tokenizer and the normalizer of compose (tokenizer)."""
    recognizers: tuple[str, ...] = field(default=(), metadata=BY_CONTENT)
    """Recognizers of single speakers that hear the same sound, twice each: turn by turn of the reference, and all of it
    by one speaker. `pocketsphinx` (English), or folders of Whisper models as transformers saves them."""
    window_s: float | None = field(default=None, metadata=within(0, 86_400, "s", open_at="low"))
    """Longest window in seconds; the longest that the checkpoint was trained on by default."""
    cut: Cut = "quiet"
    """Where longer conversations are cut: at the quietest place of each window's last third, after so many seconds
    (fixed), or, as an oracle, at the reference's pauses (reference)."""
    join: tuple[JoinName, ...] = ("voices", "overlap")
    """How speakers are followed from one window to the next: by samples of their voices in the prompt (where the
    checkpoint was trained with compose.carry_voices), by the words and times of audio that windows share, by the
    likeness of their codes. By none, each window is scored as a session of its own."""
    overlap_s: float | None = field(default=None, metadata=within(0, 86_400, "s"))
    """Seconds of audio that two windows share; compose.overlap_s by default, or a fifth of a window (at most 4 s)."""
    diarization: Diarization = field(default="reference", metadata=BY_CONTENT)
    """Who tells the checkpoint where each talker speaks, in task asr_talker: the reference, which is an oracle, or the
    checkpoint itself in a first pass of task asr_timed."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint is evaluated: after the last step, or the one with the lowest validation loss
    (train.keep_best)."""
    max_tokens: int | None = field(default=None, metadata=within(1, 10**6, "tokens"))
    """Longest transcript of a window, in tokens; 20 for each second of the window by default, which is short for
    scripts of several bytes a letter with the tokenizer of bytes. Transcripts that reach it are cut, and counted."""
    batch_size: int = field(default=16, metadata=NO_RESULT | within(1, 10**5, "windows"))
    """Windows decoded at once."""
    beams: int = field(default=1, metadata=BY_CONTENT | within(1, 64))
    """Beginnings of each transcript that are kept while it is decoded (beam search); 1 is greedy decoding."""
    constrain: bool = True
    """Whether transcripts keep to the task's grammar: tags in order of arrival, times that do not go back."""
    untrained: bool = field(default=True, metadata=NO_RESULT)
    """Whether the untrained model is evaluated too, as a baseline."""

    def rules(self) -> Iterator[str]:
        """Check the names of columns; which there are is known when there are conversations."""
        for name in self.slices:
            if not re.fullmatch(r"\w[\w.\-]*", name):
                yield f"evaluate.slices: {name!r} is no name of a column"


FitName = Literal["window", "capacity", "conversations", "steps", "size"]
OPEN: dict[FitName, tuple[str, ...]] = {
    "window": ("compose.window_s",),
    "capacity": ("pack.capacity",),
    "conversations": ("casting.train_conversations",),
    "steps": ("train.steps",),
    "size": tuple(f"model.{name}" for name in ("size", "dim", "num_layers", "num_heads", "num_kv_heads", "ffn_dim")),
}
"""The fields that give each number."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked, error=InputError):
    """Everything that a result depends on, and nothing else."""

    name: str = field(default="custom", metadata=NO_RESULT | FILE_NAME)
    """Name of the recipe and of its output folder."""
    seed: int = field(default=0, metadata=SEED)
    """Root of all randomness."""
    fit: tuple[FitName, ...] = ()
    """Numbers that follow from the corpus, unless they are given: window (compose.window_s, from the length of
    conversations), capacity (pack.capacity, from window, codec and layout), conversations (casting.train_conversations)
    and steps (train.steps, both from the hours of speech) and size (model.size). The run says what they are."""
    corpus: Corpus = field(default_factory=Corpus)
    casting: Casting = field(default_factory=Casting)
    converse: Converse = field(default_factory=Converse)
    place: Place = field(default_factory=Place)
    render: Render = field(default_factory=Render)
    encode: Encode = field(default_factory=Encode)
    features: Features = field(default_factory=Features)
    compose: Compose = field(default_factory=Compose)
    pack: Pack = field(default_factory=Pack)
    partitions: Partitions = field(default_factory=Partitions)
    model: Shape = field(default_factory=lambda: SIZES["tiny"])
    train: Training = field(default_factory=Training)
    evaluate: Evaluation = field(default_factory=Evaluation)
    phases: tuple[Phase, ...] = ()
    """Trainings in a row, each on data of its own and from the checkpoint of the one before; the last is evaluated."""

    @property
    def needs_enrolments(self) -> bool:
        """Whether a task needs voice samples, for which each conversation gets another utterance of each speaker."""
        return any(TASKS[task].takes_voices for task in self.compose.tasks)

    @property
    def digest(self) -> str:
        """Hash of everything in the recipe that changes results; speed and bookkeeping do not make another recipe.

        Numbers that the corpus decides are left out: they follow from it and from the rest.
        """
        values = key_settings(self)
        for path in self.open_fields:
            section, _, name = path.partition(".")
            values[section].pop(name, None)
        return digest(values)[:32]

    @property
    def open_fields(self) -> tuple[str, ...]:
        """Return the fields whose values are left to the corpus."""
        return tuple(path for name in self.fit for path in OPEN[name])
