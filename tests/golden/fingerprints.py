"""Content fingerprints of every data set, of hypotheses and of training, made by a tiny fixed recipe.

Each JSON file beside this one holds the fingerprint of one data set and the versions of the code that it was made by.
`tests/test_golden.py` compares; `make golden` writes a new fingerprint, but only where a version was raised.

Digests are made from integers, text and decisions. What floating-point arithmetic can round differently on another
processor (samples, codes made from them, losses) is kept as figures, which are compared within a tolerance.
"""

import dataclasses
import io
import json
import math
import sys
import tempfile
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from models.codecs.codec import unpack_codes
from models.config.options import Training
from models.config.shape import Shape
from models.speech_lm.pretrained.start import build_model
from models.training.loop import RunFolder, train
from operators.corpus.cast import Casting
from operators.corpus.index import index_utterances
from operators.corpus.manifest import corpus_roots
from operators.corpus.recorded import index_recorded
from operators.corpus.sets.layouts import LAYOUTS
from operators.digest import digest, to_jsonable
from operators.documents.compose import Compose
from operators.packing.pack import Pack
from operators.schema import CONVERSATIONS, UTTERANCES
from operators.simulate.converse import Converse
from operators.simulate.render import Render
from operators.simulate.rooms import Place
from operators.store.dataset import Dataset
from operators.store.shards import PackShards
from operators.tokenize.encode import Encode
from pipelines.plan.header import header_of
from pipelines.plan.output import Output
from pipelines.plan.sources import manifests_of, recorded_of
from pipelines.plan.start import decide, load_start
from pipelines.recipes.recipe import Corpus, Evaluation, Partitions, Recipe
from pipelines.stages import STAGES, plan_recipe
from pipelines.stages.index import index_partition, recordings_partition
from tests.pipelines.support import make_stale

FOLDER = Path(__file__).parent
GOLDEN_TASKS = (
    *("asr", "asr_fifo", "asr_timed", "asr_token", "asr_target", "asr_context"),
    *("continue", "extract", "speak", "duplex", "interleave"),
)
"""Tasks that the recipe trains; documents of those that came later have fingerprints in their own tests."""
RATE_HZ = 16_000
NAMES = (
    "utterances",
    "recordings",
    "conversations",
    "audio",
    "codes",
    "packs",
    "training",
    "hypotheses",
)
"""In the order of the road: what one is made from stands before it."""
TOLERANCE = 2e-3
"""Relative; figures of two processors differ by rounding alone, some 1e-6."""


@dataclass(frozen=True)
class Fingerprint:
    """What one data set holds."""

    versions: dict[str, str]
    """Versions of all code that it follows from."""
    digest: str
    """Of integers, text and decisions."""
    figures: dict[str, list[float]] = field(default_factory=dict)
    """What floating-point arithmetic rounds."""

    def path(self, name: str) -> Path:
        """Where the fingerprint of a data set is kept."""
        return FOLDER / f"{name}.json"

    def differs(self, kept: "Fingerprint") -> bool:
        """Tell whether the contents are others."""
        if self.digest != kept.digest or self.figures.keys() != kept.figures.keys():
            return True
        return any(
            len(mine) != len(theirs)
            or not all(math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-3) for a, b in zip(mine, theirs, strict=True))
            for mine, theirs in ((self.figures[name], kept.figures[name]) for name in self.figures)
        )


def read(name: str) -> Fingerprint | None:
    """Return the fingerprint that is kept of a data set."""
    path = FOLDER / f"{name}.json"
    return Fingerprint(**json.loads(path.read_text())) if path.exists() else None


# ------------------------------------------------------------------------------------------ the recipe and its corpus


def _sawtooth(num_samples: int, pitch: int, vowel: int) -> np.ndarray:
    """Two sawtooth waves as 16-bit integers, made without floating-point arithmetic."""
    n = np.arange(num_samples, dtype=np.int64)
    tone = (n * pitch * 65536 // RATE_HZ) % 65536 - 32768
    over = (n * vowel * 65536 // RATE_HZ) % 65536 - 32768
    return (tone // 8 + over // 16).astype("<i2")


def _write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples.tobytes())


def write_corpus(folder: Path) -> tuple[Path, Path]:
    """Write utterances with word times, and two recorded conversations with STM; return manifest and folder."""
    words = ("one", "two", "three", "four", "five", "seven", "eleven")
    (folder / "wav").mkdir(parents=True)
    rows = []
    for s in range(8):
        for u in range(4):
            name, length = f"s{s}-{u}", RATE_HZ * (8 + 2 * u + s % 3) // 10
            _write_wav(folder / f"wav/{name}.wav", _sawtooth(length, 90 + 20 * s, 400 + 250 * u))
            said = [words[(s + u + i) % len(words)] for i in range(2 + u % 2)]
            each = length / RATE_HZ / len(said)
            rows.append(
                {
                    "id": name,
                    "speaker": f"s{s}",
                    "audio": f"wav/{name}.wav",
                    "duration": length / RATE_HZ,
                    "text": " ".join(said).capitalize() + ".",
                    "story": f"{u // 2}",
                    "position": u,
                    "gender": "fm"[s % 2],
                    "split": "test" if s in (2, 5) else "train",
                    "words": [[word, i * each, 0.9 * each] for i, word in enumerate(said)],
                }
            )
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recorded = folder / "recorded"
    recorded.mkdir()
    for number in range(2):
        name = f"meeting{number}"
        _write_wav(recorded / f"{name}.wav", _sawtooth(4 * RATE_HZ, 130 + 30 * number, 700))
        said = (("ann", 0.25, 1.5, "good morning"), ("bob", 1.25, 2.75, "hello ann"), ("ann", 3.0, 3.75, "yes"))
        lines = [f"{name} 1 {who} {start} {end} {text}" for who, start, end, text in said]
        (recorded / f"{name}.stm").write_text("\n".join(lines) + "\n")
    return manifest, recorded


def recipe_of(manifest: Path, recorded: Path) -> Recipe:
    """Return a recipe in which everything that has a version takes part."""
    return Recipe(
        name="golden",
        seed=7,
        corpus=Corpus(manifests=(str(manifest),), recorded=(f"train={recorded}",), language="en", licence="CC0"),
        casting=Casting(
            train_conversations=6,
            test_conversations=2,
            min_speakers=2,
            max_speakers=2,
            max_utterances=3,
            speakers_per_cohort=4,
        ),
        converse=Converse(min_turns=2, max_turns=5, max_duration_s=9.0),
        place=Place(room="simulated", num_microphones=2),
        render=Render(stems="both", keep_audio=True),
        encode=Encode(stems=True),
        compose=Compose(tasks=GOLDEN_TASKS, group=2, window_s=6.0, overlap_s=1.0, prompt_s=0.5, carry_voices=True),
        pack=Pack(capacity=768),
        partitions=Partitions(conversations_per_partition=3),
        model=Shape(dim=32, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=64),
        train=Training(steps=2, packs_per_step=2, warmup_steps=1, checkpoint_every=1, mixture=("asr=2,speak=1",)),
        evaluate=Evaluation(max_tokens=12),
    )


# --------------------------------------------------------------------------------------------------- making everything


@dataclass
class Road:
    """What was made below a folder, in this process."""

    recipe: Recipe
    output: Output

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Rows of a data set's newest snapshot, in order."""
        return list(self.output.dataset(name).read().to_pylist())

    def versions(self, *names: str) -> dict[str, str]:
        """Versions that the keys of some data sets follow from."""
        found: dict[str, str] = {}
        plan = plan_recipe(self.recipe, self.output)
        for name in names:
            for partition in plan.stage(name).partitions:
                found.update(partition.depends.get("operators", {}))
        return dict(sorted(found.items()))


def build(folder: Path, change: Callable[[Recipe], Recipe] = lambda recipe: recipe) -> Road:
    """Make every data set, two steps of training, and the hypotheses of its checkpoints."""
    manifest, recorded = write_corpus(folder / "corpus")
    recipe, output = change(recipe_of(manifest, recorded)), Output(folder / "out")
    road = Road(recipe, output)
    index_corpus(road)
    for stage in (one for one in STAGES if one.is_used(recipe)):
        if stage.make is not None:
            _make(road, stage.dataset)
        elif stage.dataset == "training":
            _train(road)
    return road


def index_corpus(road: Road) -> None:
    """Index utterances and recordings."""
    recipe, output = road.recipe, road.output
    manifests, recorded, corpus = manifests_of(recipe, output), recorded_of(recipe), recipe.corpus
    table, bad = index_utterances(manifests, corpus.where, corpus.max_duration_s, corpus.language, corpus.licence)
    roots = {path: name for name, path in corpus_roots([*manifests, *recorded]).items()}
    talks, worse = index_recorded(
        recorded,
        roots,
        recipe.converse.sample_rate_hz,
        seed=recipe.seed,
        test_share=recipe.casting.test_speakers,
        language=corpus.language,
        licence=corpus.licence,
        read=lambda manifest: LAYOUTS[corpus.layout].read(manifest, []),
    )
    assert not bad, bad
    assert not worse, worse
    for name, partition, rows, schema in (
        ("utterances", index_partition(recipe, output), table, UTTERANCES),
        ("recordings", recordings_partition(recipe), talks, CONVERSATIONS),
    ):
        dataset = output.dataset(name)
        receipt = dataset.commit(partition, schema, {}, lambda writer, rows=rows: writer.write(rows))  # type: ignore[misc]
        dataset.snapshot([receipt], {}, {})


def _make(road: Road, name: str) -> None:
    stage = plan_recipe(road.recipe, road.output).stage(name)
    receipts = make_stale(stage, road.recipe, road.output)
    assert not any(receipt.quarantined for receipt in receipts if name != "packs"), receipts
    road.output.dataset(name).snapshot(receipts, {}, {})


def _train(road: Road) -> None:
    recipe, output = road.recipe, road.output
    snapshot = output.dataset("packs").latest()
    assert snapshot is not None
    shards = PackShards(Dataset(output.data, "packs"), snapshot, "stop")
    header = header_of(recipe, {})
    folder = output.training(plan_recipe(recipe, output).training_key)
    folder.mkdir(parents=True)
    model = build_model(header.shape, header.vocabulary).initialize(recipe.seed)
    load_start(model, decide(recipe, folder, header))
    train(model, shards, shards.grid, recipe.train, seed=recipe.seed, place=RunFolder(folder=folder, header=header))


# -------------------------------------------------------------------------------------------------------- fingerprints


def _decisions(value: Any) -> Any:
    """Leave out where files lie, and round what is no integer: a millimeter, a thousandth of a decibel."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _decisions(item) for key, item in value.items() if key not in ("corpus", "fingerprint")}
    return [_decisions(item) for item in value] if isinstance(value, list) else value


def _level(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples.astype(np.float64)))))


def _profile(codes: np.ndarray) -> list[float]:
    """Means of codes (K, T) over time, and over codebooks in tenths of the time: what moves if a code is another."""
    tenths = [part.mean() for part in np.array_split(codes.astype(np.float64), 10, axis=1)]
    return [round(float(mean), 4) for mean in (*codes.mean(axis=1)[::8], *tenths)]


def _audio(rows: list[dict[str, Any]]) -> tuple[Any, dict[str, list[float]]]:
    decisions, figures = [], {}
    for row in rows:
        samples, _ = soundfile.read(io.BytesIO(row["flac"]), dtype="int16", always_2d=True)
        stems = [(s["speaker"], s["kind"], len(s["flac"]) > 0) for s in row["stems"]]
        decisions.append([row["conversation_id"], row["num_samples"], row["num_channels"], list(samples.shape), stems])
        blocks = np.array_split(samples[:, 0], 12)
        figures[row["conversation_id"]] = [round(_level(block), 2) for block in blocks]
    return decisions, figures


def _codes(rows: list[dict[str, Any]], recipe: Recipe) -> tuple[Any, dict[str, list[float]]]:
    spec = recipe.encode.spec
    decisions, figures = [], {}
    for row in rows:
        row_codes = unpack_codes(row.pop("codes"), spec.num_codebooks, spec.bits)
        heard = np.frombuffer(row.pop("levels"), np.uint8)
        figures[row["conversation_id"]] = [*_profile(row_codes), round(float(heard.mean()), 1)]
        for number, stem in enumerate([*row["stems"], *row["enrolments"]]):
            own = unpack_codes(stem.pop("codes"), spec.num_codebooks, spec.bits)
            stem["shape"] = list(own.shape)
            figures[f"{row['conversation_id']}/{number}"] = [round(float(own.mean()), 4)]
        decisions.append({**row, "shape": list(row_codes.shape)})
    return decisions, figures


def _packs(rows: list[dict[str, Any]], recipe: Recipe) -> tuple[Any, dict[str, list[float]]]:
    """Everything but the codes, whose order is told by their sizes and means."""
    spec = recipe.encode.spec
    decisions, figures = [], {}
    for row in rows:
        codes = unpack_codes(row.pop("codes"), spec.num_codebooks, spec.bits)
        decisions.append({**row, "frames": codes.shape[1]})
        if codes.shape[1]:
            parts = np.array_split(codes.astype(np.float64), min(8, codes.shape[1]), axis=1)
            figures[row["pack_id"]] = [round(float(part.mean()), 4) for part in parts]
    return decisions, figures


def fingerprints(road: Road) -> Iterator[tuple[str, Fingerprint]]:
    """Yield the fingerprint of each data set, of training and of hypotheses."""
    recipe, output = road.recipe, road.output
    utterances = index_partition(recipe, output).depends["operators"]
    recordings = recordings_partition(recipe).depends["operators"]
    yield "utterances", Fingerprint(dict(sorted(utterances.items())), digest(_decisions(road.rows("utterances"))))
    yield "recordings", Fingerprint(dict(sorted(recordings.items())), digest(_decisions(road.rows("recordings"))))
    above = {**utterances, **recordings, **road.versions("conversations")}
    yield "conversations", Fingerprint(dict(sorted(above.items())), digest(_decisions(road.rows("conversations"))))
    decisions, figures = _audio(road.rows("audio"))
    versions = dict(sorted({**above, **road.versions("audio")}.items()))
    yield "audio", Fingerprint(versions, digest(decisions), figures)
    decisions, figures = _codes(road.rows("codes"), recipe)
    above = {**above, **road.versions("codes"), "codec": recipe.encode.spec.weights_digest[:16]}
    yield "codes", Fingerprint(dict(sorted(above.items())), digest(_decisions(decisions)), figures)
    decisions, figures = _packs(road.rows("packs"), recipe)
    above = {**above, **road.versions("packs"), "tokenizer": recipe.compose.loaded_tokenizer.digest[:16]}
    yield "packs", Fingerprint(dict(sorted(above.items())), digest(_decisions(decisions)), figures)
    folder = output.training(plan_recipe(recipe, output).training_key)
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    counted = [
        [step[name] for name in ("step", "num_columns", "num_documents", "num_frames", "epoch")] for step in steps
    ]
    figures = {name: [step[name] for step in steps] for name in ("loss", "text_loss", "audio_loss", "grad_norm", "lr")}
    above = {**above, **road.versions("training")}
    yield "training", Fingerprint(dict(sorted(above.items())), digest(counted), figures)
    above = {**above, **road.versions("hypotheses")}
    rows = [{key: row[key] for key in ("conversation_id", "turns", "num_tokens")} for row in road.rows("hypotheses")]
    yield "hypotheses", Fingerprint(dict(sorted(above.items())), digest(rows))


def verdict(name: str, made: Fingerprint, kept: Fingerprint | None) -> str:
    """Say what is wrong with a data set's fingerprint: nothing where it is the one that is kept."""
    if kept is None:
        return f"{name} has no fingerprint yet: make golden"
    raised = {
        key for key in made.versions.keys() | kept.versions.keys() if made.versions.get(key) != kept.versions.get(key)
    }
    if not made.differs(kept):
        return f"{name}: versions of {', '.join(sorted(raised))} are others: make golden" if raised else ""
    if raised:
        return f"{name} is another, and the version of {', '.join(sorted(raised))} was raised: make golden"
    return f"{name} is another by the same versions: raise the version of {OWNERS[name]}, then make golden"


OWNERS = {
    "utterances": "manifest or the normalizer",
    "recordings": "recorded or the normalizer",
    "conversations": "cast, converse or place",
    "audio": "render",
    "codes": "render or encode",
    "packs": "compose or pack",
    "training": "train",
    "hypotheses": "transcribe",
}
"""Whose version is to be raised where a data set changes and what it is made from does not."""


def main() -> None:
    """Write the fingerprints that changed; refuse where no version was raised."""
    with tempfile.TemporaryDirectory() as folder:
        made = dict(fingerprints(build(Path(folder))))
    refused = []
    for name, fingerprint in made.items():
        kept = read(name)
        said = verdict(name, fingerprint, kept)
        if "raise the version" in said:
            refused.append(said)
        elif said:
            fingerprint.path(name).write_text(
                json.dumps(to_jsonable(dataclasses.asdict(fingerprint)), indent=1, sort_keys=True) + "\n"
            )
            print(f"{name}: written")
    if refused:
        sys.exit("\n".join(refused))


if __name__ == "__main__":
    main()
