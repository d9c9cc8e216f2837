"""Named recipes: frozen values made by plain functions, and the file that can be given instead. Nothing is run."""

import dataclasses
import difflib
import json
import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from models.config.options import Training
from models.config.shape import SIZES, Shape
from operators.corpus.cast import Casting
from operators.corpus.stories import Stories
from operators.digest import digest, to_jsonable
from operators.documents.compose import Compose
from operators.documents.tasks import KNOWS_WHO_TALKS, NEEDS_STEMS
from operators.errors import InputError
from operators.packing.pack import Pack
from operators.simulate.converse import Converse
from operators.simulate.joined import Join
from operators.simulate.render import Render
from operators.simulate.rooms import Place
from operators.tokenize.encode import Encode


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Whose recordings are used."""

    manifests: tuple[str, ...] = ()
    """Files or folders: lhotse recordings and supervisions, cuts, Shar, NeMo or plain JSONL; PATH or SPLIT=PATH."""
    recorded: tuple[str, ...] = ()
    """Recorded conversations: lhotse manifests of recordings with several speakers' supervisions, or folders of sound
    files with STM or RTTM files; PATH or SPLIT=PATH. Without splits, recordings are drawn for the test split."""
    join: Join | None = None
    """Join each speaker's utterances to longer ones first, beside the output: for corpora of single words."""
    stories: Stories | None = None
    """Speak the embedded corpus instead, beside the output."""
    where: str | None = None
    """Keep utterances for which this holds: "gender == 'f' and duration_s < 20"."""
    language: str | None = None
    """Language of rows that name none."""
    licence: str | None = None
    """Licence of rows that name none."""
    allow_licences: tuple[str, ...] = ()
    """Licences that may be used; any where none is named. Others stop a run before work starts."""
    max_duration_s: float = 60.0
    """Longer utterances are quarantined."""
    min_utterances_per_speaker: int = 2
    """Speakers with fewer are quarantined: they could never take two turns."""
    max_bad_share: float = 0.0
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
    """How checkpoints are judged."""

    max_tokens: int = 256
    """Longest answer."""
    batch_size: int = 16
    """Windows decoded at once."""
    constrain: bool = True
    """Whether answers keep to the task's grammar: tags in order of arrival, times that do not go back."""
    untrained: bool = True
    """Whether the untrained model is judged too, as the floor."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a result depends on, and nothing else."""

    name: str = "custom"
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
        """The hash that two equal recipes share."""
        return digest(self)[:32]


def tiny() -> Recipe:
    """A minute, end to end: to see that all works, and for the tests."""
    return Recipe(
        name="tiny",
        corpus=Corpus(stories=Stories(num_voices=8, stories_per_voice=1, sentences_per_story=6)),
        casting=Casting(
            train_conversations=24, test_conversations=4, max_speakers=2, max_utterances=4, test_speakers=0.25
        ),
        converse=Converse(min_turns=2, max_turns=4, max_duration_s=12.0),
        compose=Compose(tasks=("asr", "continue"), group=4, window_s=12.0),
        pack=Pack(capacity=512),
        partitions=Partitions(conversations_per_partition=8),
        model=Shape(dim=64, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=128),
        train=Training(steps=12, packs_per_step=2, warmup_steps=2, checkpoint_every=3),
        evaluate=Evaluation(max_tokens=48),
    )


def demo() -> Recipe:
    """Eight minutes on two cores: a corpus spoken by espeak-ng, its conversations, a small model that learns."""
    return Recipe(
        name="demo",
        corpus=Corpus(stories=Stories()),
        casting=Casting(train_conversations=5000, test_conversations=40, max_speakers=2, max_utterances=3),
        converse=Converse(min_turns=2, max_turns=3, max_duration_s=10.0),
        compose=Compose(group=4, window_s=10.0),
        pack=Pack(capacity=1024),
        partitions=Partitions(conversations_per_partition=1000),
        model=dataclasses.replace(SIZES["tiny"], prompt_attention="both"),
        train=Training(
            steps=1000, packs_per_step=3, packs_per_pass=3, lr=3e-3, warmup_steps=60, checkpoint_every=200,
            optimizer="muon", activity_weight=0.3, tag_weight=3.0,
        ),
        evaluate=Evaluation(max_tokens=160),
    )  # fmt: skip


def stories() -> Recipe:
    """Forty minutes on two cores: the demo's voices and stories, learnt by all that helps to learn."""
    return Recipe(
        name="stories",
        corpus=Corpus(stories=Stories()),
        casting=Casting(train_conversations=16_000, test_conversations=100, max_speakers=2, max_utterances=3),
        converse=Converse(min_turns=2, max_turns=3, max_duration_s=10.0),
        compose=Compose(group=2, window_s=10.0),
        pack=Pack(capacity=1024),
        partitions=Partitions(conversations_per_partition=4000),
        model=dataclasses.replace(SIZES["tiny"], prompt_attention="both"),
        train=Training(
            steps=5000, packs_per_step=4, packs_per_pass=2, lr=3e-3, warmup_steps=100, checkpoint_every=500,
            hide_bands=2, hide_spans=2, optimizer="muon", ctc_weight=0.3, activity_weight=0.3, tag_weight=3.0,
        ),
        evaluate=Evaluation(max_tokens=160),
    )  # fmt: skip


def speechocean() -> Recipe:
    """Real read English of 52 speakers (speechocean762); the split is the manifest's, no speaker is in both."""
    return Recipe(
        name="speechocean",
        corpus=Corpus(manifests=("../shared/data/speechocean762",), language="en", licence="speechocean762"),
        casting=Casting(train_conversations=800, test_conversations=40, max_speakers=3, max_utterances=4),
        converse=Converse(min_turns=2, max_turns=4, max_duration_s=20.0),
        compose=Compose(group=4, window_s=20.0),
        pack=Pack(capacity=1024),
        partitions=Partitions(conversations_per_partition=200),
        model=SIZES["tiny"],
        train=Training(steps=400, packs_per_step=4, warmup_steps=40, checkpoint_every=100),
        evaluate=Evaluation(max_tokens=200),
    )


def fsdd() -> Recipe:
    """Real spoken digits (FSDD), ten words; its split SHARES all six speakers between train and test."""
    return Recipe(
        name="fsdd",
        corpus=Corpus(manifests=("../shared/data/fsdd",), language="en", licence="CC-BY-SA-4.0", join=Join()),
        casting=Casting(train_conversations=16_000, test_conversations=100, max_speakers=2, max_utterances=4),
        converse=Converse(min_turns=2, max_turns=6, max_duration_s=10.0),
        compose=Compose(group=2, window_s=10.0),
        pack=Pack(capacity=1024),
        partitions=Partitions(conversations_per_partition=4000),
        model=dataclasses.replace(SIZES["tiny"], prompt_attention="both"),
        train=Training(
            steps=4200, packs_per_step=4, packs_per_pass=2, lr=3e-3, warmup_steps=100, checkpoint_every=250,
            hide_bands=2, hide_spans=2, optimizer="muon", ctc_weight=0.3, activity_weight=0.3,
            tag_weight=3.0,
        ),
        evaluate=Evaluation(max_tokens=100),
    )  # fmt: skip


RECIPE_VARIABLE = "HUBBUB_RECIPE"
"""Environment variable that holds a recipe's text where `env:HUBBUB_RECIPE` stands for its file."""

RECIPES: dict[str, Callable[[], Recipe]] = {
    "demo": demo,
    "stories": stories,
    "tiny": tiny,
    "speechocean": speechocean,
    "fsdd": fsdd,
    "custom": Recipe,
}


def load_recipe(name: str) -> Recipe:
    """Return a recipe by its name, or from a YAML or JSON file with the same fields.

    Raises:
        InputError: there is neither, or the file names an unknown key or a value of another kind.
    """
    if name in RECIPES:
        return RECIPES[name]()
    path = Path(name)
    if name == f"env:{RECIPE_VARIABLE}":
        return _read(os.environ.get(RECIPE_VARIABLE, ""), name)
    if path.suffix not in (".yaml", ".yml", ".json"):
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(RECIPES)}, or a .yaml or .json file"
        raise InputError(f"there is no recipe {name}; {hint}")
    try:
        return _read(path.read_text(), str(path))
    except OSError as error:
        raise InputError(f"recipe file {path} cannot be read: {error.strerror}") from error


def _read(text: str, path: str) -> Recipe:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"recipe file {path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(data, dict):
        raise InputError(f"recipe file {path} must hold keys and values, as `hubbub plan demo --print-recipe` shows")
    recipe: Recipe = from_mapping(Recipe, data, path)
    return recipe


def from_mapping(kind: Any, data: Mapping[str, Any], where: str) -> Any:
    """Build a dataclass from keys and values; what is not named keeps its default.

    Raises:
        InputError: names the unknown key and the nearest one, or the value that does not fit.
    """
    names = {f.name for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in data:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(names))}"
            hint += " (a recipe of a newer version may know more than this one)" if not near else ""
            raise InputError(f"{where}: unknown key {key}; {hint}")
    try:
        return kind(**{key: _value(hints[key], value, f"{where}: {key}") for key, value in data.items()})
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in options:
            return None
        return _value(next(option for option in options if option is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise InputError(f"{where} must hold keys and values")
        return from_mapping(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where} must be a list")
        return tuple(_value(options[0], item, where) for item in value)
    if origin is typing.Literal:
        if value not in options:
            raise InputError(f"{where}: {value!r} is none of {', '.join(map(str, options))}")
        return value
    if hint is float:
        # YAML takes 1e-3 for text: it wants 1.0e-3.
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise InputError(f"{where} must be a number, not {type(value).__name__} ({value!r})")
        try:
            return float(value)
        except ValueError as error:
            raise InputError(f"{where} must be a number, not {value!r}") from error
    if hint in (int, str, bool) and type(value) is not hint:
        raise InputError(f"{where} must be of type {hint.__name__}, not {type(value).__name__} ({value!r})")
    return value


def to_json(recipe: Recipe) -> str:
    """Write a resolved recipe; `named_or_file` reads it back."""
    return json.dumps(to_jsonable(recipe), indent=1, sort_keys=True) + "\n"


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """List where two resolved recipes differ, as `train.steps: 600 -> 700`."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            line
            for key in sorted(one.keys() | other.keys())
            for line in differences(one.get(key), other.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if one == other else [f"{path}: {json.dumps(one)} -> {json.dumps(other)}"]


def check_recipe(recipe: Recipe) -> None:
    """Check what no single stage can see.

    Raises:
        InputError: the rates of timeline and codec differ, windows cannot be packed, or there is no corpus.
    """
    codec = recipe.encode.spec
    if recipe.converse.sample_rate_hz != codec.sample_rate_hz:
        raise InputError(
            f"conversations are made at {recipe.converse.sample_rate_hz} Hz but codec {codec.name} wants "
            f"{codec.sample_rate_hz} Hz; set --converse.sample-rate-hz {codec.sample_rate_hz}"
        )
    columns = recipe.compose.layout_of(codec).num_columns(int(recipe.compose.window_s * codec.frame_rate_hz))
    if columns + 16 > recipe.pack.capacity:
        raise InputError(
            f"a window of {recipe.compose.window_s:g} s makes {columns} columns, but a pack holds "
            f"{recipe.pack.capacity}; raise --pack.capacity, lower --compose.window-s or raise --compose.group"
        )
    spoken = recipe.corpus.manifests or recipe.corpus.stories is not None
    if not spoken and not recipe.corpus.recorded:
        raise InputError(
            "the recipe names no corpus: --corpus.manifests PATH ... of single speakers, --corpus.recorded PATH ... of "
            "conversations (or recipe demo, which speaks its own)"
        )
    if recipe.corpus.manifests and recipe.corpus.stories is not None:
        raise InputError("the recipe names manifests and stories; to use manifests, start from recipe custom")
    if spoken and not recipe.corpus.recorded and min(_cast(recipe)) < 1:
        raise InputError("casting: both splits need at least one conversation")
    if spoken:
        recipe.place.check(recipe.casting.max_speakers)
    _ = recipe.compose.loaded_tokenizer
    continuous = recipe.encode.codec == "pcm"
    if continuous != (recipe.model.encoder is not None):
        raise InputError(
            "audio of codec pcm is heard through an encoder, and no other: --encode.codec pcm goes with "
            "--model.encoder FOLDER"
        )
    if continuous:
        predicted = [task for task in recipe.compose.tasks if not task.startswith("asr")]
        if predicted:
            raise InputError(f"compose.tasks: {predicted[0]} predicts audio, which codec pcm cannot; take asr tasks")
        if (recipe.compose.layout, recipe.compose.group) != ("parallel", 1):
            raise InputError("codec pcm has one column a frame: --compose.layout parallel --compose.group 1")
        if recipe.train.hide_bands or recipe.train.shift_bands:
            raise InputError("train.hide_bands and shift_bands are for codes whose codebooks are bands, not for pcm")
    if recipe.train.activity_weight and (
        recipe.compose.deduplicate or not any(task in KNOWS_WHO_TALKS for task in recipe.compose.tasks)
    ):
        raise InputError(
            f"train.activity_weight asks who talks in prompts, which only {', '.join(KNOWS_WHO_TALKS)} know, without "
            "compose.deduplicate; set it to 0"
        )
    needy = [task for task in recipe.compose.tasks if task in NEEDS_STEMS]
    if needy and not recipe.encode.stems:
        raise InputError(
            f"compose.tasks: {needy[0]} needs codes of each speaker's own sound: --render.stems anechoic --encode.stems"
        )
    if recipe.encode.stems and recipe.render.stems == "none":
        raise InputError("encode.stems encodes what --render.stems makes; set it to reverberant, anechoic or both")


def _cast(recipe: Recipe) -> tuple[int, int]:
    return recipe.casting.train_conversations, recipe.casting.test_conversations
