"""Kinds of training mixtures from the same utterances of the same train speakers, as lists of given mixtures.

- `librimix`: two utterances from the same start (`--converse.model librimix`, LibriMix's mode `max`).
- `lhotse`: lhotse's ConversationalMeetingSimulator with its published defaults (never fitted: pauses of 1 s or more,
  overlaps of 2 s or more where utterances allow, half of all changes of speaker overlap).
- `lhotse_fitted`: the same after its `fit` to AMI's train meetings, to which our prior was fitted too.
- `independent`: ours, with a prior without dyad structure: each offset and pause is drawn by itself.
- `ours`: the default.
- `general`: ours, those of 20 to 40 % overlap only, and single talkers.

All are dry, at the same levels, of utterances without the silence at their ends, and at most 12 s long. Mixtures in
which the second talker does not come up within 12 s are left out, of every kind.
"""

import contextlib
import gzip
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from operators.corpus.cast import Casting, cast_table, plan_casts
from operators.corpus.index import index_utterances
from operators.corpus.segments import Segment
from operators.corpus.splits import split_rows
from operators.digest import canonical_json
from operators.errors import InputError
from operators.rng import rng
from operators.simulate.converse import Converse
from operators.simulate.frozen import RATE_HZ, Spoken
from operators.simulate.priors.liveliness import hold_shares
from operators.simulate.priors.prior import Prior
from operators.simulate.rooms import Place
from pipelines.plan.sources import given_manifests
from pipelines.recipes.named import custom
from pipelines.recipes.recipe import Recipe
from tests.bench.real.overlaps import SHARES, given, is_within

KINDS = ("librimix", "lhotse", "lhotse_fitted", "independent", "ours", "general")
VOICES, PRIOR, LIST = "voices.jsonl", "independent.json", "list.jsonl.gz"
WINDOW_S = 12.0
TAIL_S = 0.2
"""What a simulated conversation lasts after its last word."""
TURNS = (2, 4)
SINGLE_SHARE = 0.25
"""Of the hours of `general`."""
LEAST_S = 3.0
"""No kind keeps less than this of each mixture that is drawn, those left out counted in."""
LEAST_IN_BOUNDS_S = 0.6
"""The same of `general`: one in eight of our mixtures has the overlap wanted."""


def without_dyads(prior: Prior) -> Prior:
    """Return a prior by which offsets and pauses are distributed as before, but share nothing within a conversation.

    No option of the timing does it: it follows from the prior. What is 0 here are the shares of variance of the
    conversation and of its speakers, the correlation with the offset before, and the differences of liveliness. The
    shares of holds over all conversations stay.
    """
    overlaps = float((np.array(prior.offset_s) < 0).mean())
    chance = np.array(prior.hold_after)
    hold = hold_shares(np.log(chance / (1 - chance)), overlaps, prior.liveliness[0]).round(6).tolist()
    return replace(
        prior,
        name=f"{prior.name}-independent",
        hold_after=(hold[0], hold[1], hold[2]),
        conversation_share=0.0,
        speaker_share=0.0,
        serial=0.0,
        pause_conversation_share=0.0,
        liveliness=(0.0, 0.0),
        liveliness_correlation=(0.0, 0.0, 0.0),
    )


def write_voices(by_split: Sequence[Mapping[str, Sequence[Spoken]]], corpus: Path, path: Path) -> None:
    """Write a manifest of utterances without the silence at their ends: slices of the corpus's own files.

    It holds the test split too: where a manifest names none, some of its train speakers would be drawn for it.
    """
    rows = [
        {
            **{name: one.row[name] for name in ("id", "speaker", "gender", "text", "split")},
            "audio": str(corpus / one.row["audio"]),
            "offset": one.start / RATE_HZ,
            "duration": one.num_samples / RATE_HZ,
        }
        for spoken in by_split
        for name in sorted(spoken)
        for one in spoken[name]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_list(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a list of given conversations; the same rows are the same bytes."""
    text = "".join(canonical_json(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


# ------------------------------------------------------------------------------------------------------------- recipes


def simulating(kind: str, folder: Path, conversations: int) -> Recipe:
    """Return the recipe by which a kind of ours is simulated: `librimix`, `independent` or `ours`.

    Args:
        kind: which.
        folder: where voices and prior are.
        conversations: of the train split.
    """
    recipe = custom()
    converse = Converse(min_turns=TURNS[0], max_turns=TURNS[1], max_duration_s=WINDOW_S - TAIL_S)
    if kind == "librimix":
        converse = replace(converse, model="librimix")
    if kind == "independent":
        converse = replace(converse, prior=str(folder / PRIOR))
    return replace(
        recipe,
        name=kind,
        corpus=replace(recipe.corpus, manifests=(str(folder / VOICES),), language="en", licence="speechocean762"),
        casting=Casting(
            train_conversations=conversations,
            min_speakers=2,
            max_speakers=2,
            max_utterances=1 if kind == "librimix" else TURNS[1],
        ),
        converse=converse,
        place=Place(noise="none"),
        compose=replace(recipe.compose, window_s=WINDOW_S),
    )


def write_recipe(kind: str, folder: Path, corpus: Path) -> Path:
    """Write a recipe that trains on the list of a kind and is tested on the judge; return its file."""
    path = folder / kind / "recipe.yaml"
    values = {
        "extends": "custom",
        "name": kind,
        "corpus": {
            "layout": "given",
            "recorded": [f"train={folder / kind / LIST}", f"test={folder / 'judge'}"],
            "audio_roots": [str(corpus)],
            "language": "en",
            "licence": "speechocean762",
        },
        "compose": {"window_s": WINDOW_S},
        "partitions": {"recordings_per_partition": 400},
    }
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def conversations_of(recipe: Recipe) -> pa.Table:
    """Return the conversations that the stage `simulate` makes of a recipe, in this process."""
    corpus = recipe.corpus
    utterances, bad = index_utterances(given_manifests(recipe), language=corpus.language, licence=corpus.licence)
    assert not bad, bad
    splits = split_rows(utterances, recipe.casting, recipe.seed)
    casts = plan_casts(utterances, splits, recipe.casting, recipe.seed, with_enrolments=recipe.needs_enrolments)
    return recipe.converse(cast_table(utterances, casts, recipe.seed))


# --------------------------------------------------------------------------------------------------------------- lists


def prefix_lasting(rows: Sequence[dict[str, Any]], hours: float) -> list[dict[str, Any]]:
    """Return the first mixtures, as many as come nearest to some hours.

    Raises:
        InputError: all together last less.
    """
    lasting = np.cumsum([row["num_samples"] for row in rows]) / RATE_HZ / 3600
    if not len(lasting) or lasting[-1] < hours:
        raise InputError(f"{len(rows)} mixtures last less than {hours} hours")
    return list(rows[: int(np.abs(lasting - hours).argmin()) + 1])


def mixture(kind: str, number: int, said: Sequence[tuple[int, Spoken]]) -> dict[str, Any] | None:
    """Return utterances at their starts as a row, from the first one's start on; None unless two talk in one window."""
    first = min(start for start, _ in said)
    moved = sorted(((start - first, one) for start, one in said), key=lambda turn: turn[0])
    row = given(f"{kind}-{number:06d}", "train", moved, {"condition": "overlap"}, tail=round(TAIL_S * RATE_HZ))
    talkers = {turn["speaker"] for turn in row["turns"]}
    return row if len(talkers) == 2 and row["num_samples"] <= WINDOW_S * RATE_HZ else None


def utterances_by_id(spoken: Mapping[str, Sequence[Spoken]]) -> dict[str, Spoken]:
    """Return utterances by id, in the order of speakers and ids."""
    return {one.row["id"]: one for name in sorted(spoken) for one in spoken[name]}


def our_list(
    kind: str, spoken: Mapping[str, Sequence[Spoken]], folder: Path, conversations: int, name: str = ""
) -> list[dict[str, Any]]:
    """Return mixtures of `librimix`, `independent` or `ours` as rows of a list, whose ids begin with a name."""
    by_id, rows = utterances_by_id(spoken), []
    made = conversations_of(simulating(kind, folder, conversations))
    made = made.filter(pc.equal(made["split"], "train"))
    for number, turns in enumerate(made["turns"].to_pylist()):
        said = [(turn["start_sample"], by_id[turn["utterance_id"]]) for turn in turns]
        rows.append(mixture(name or kind, number, said))
    return [row for row in rows if row is not None]


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, which lhotse draws from, for a while; what it prints goes to standard error."""
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002


def lhotse_list(
    spoken: Mapping[str, Sequence[Spoken]],
    corpus: Path,
    meetings: int,
    fit_to: Mapping[str, Sequence[Segment]] | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return mixtures of lhotse's conversational simulator as rows of a list.

    Pauses and overlaps are lhotse's: of its defaults, or fitted. Its speakers are asked for at most two utterances and
    6 s each (its defaults are 5 and 20 s), for mixtures of about a window.

    Args:
        spoken: utterances by speaker.
        corpus: their folder.
        meetings: how many are simulated.
        fit_to: recorded meetings that its distributions are fitted to.
        seed: of its draws.
    """
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment, SupervisionSet
    from lhotse.workflows.meeting_simulation import ConversationalMeetingSimulator

    by_id, cuts = utterances_by_id(spoken), []
    for name, one in by_id.items():
        lasting_s = one.num_samples / RATE_HZ
        said = SupervisionSegment(id=name, recording_id=name, start=0, duration=lasting_s, speaker=one.row["speaker"])
        recording = Recording.from_file(corpus / one.row["audio"], recording_id=name)
        cuts.append(MonoCut(name, one.start / RATE_HZ, lasting_s, 0, recording=recording, supervisions=[said]))
    with seeded(seed):
        simulator = ConversationalMeetingSimulator()
        if fit_to is not None:
            simulator.fit(
                SupervisionSet.from_segments(
                    SupervisionSegment(
                        f"{meeting}-{n}", meeting, one.start_s, one.end_s - one.start_s, speaker=one.speaker
                    )
                    for meeting, segments in sorted(fit_to.items())
                    for n, one in enumerate(segments)
                )
            )
        simulated = simulator.simulate(
            CutSet.from_cuts(cuts),
            num_meetings=meetings,
            max_duration_per_speaker=WINDOW_S / 2,
            max_utterances_per_speaker=2,
            seed=seed,
        )
    kind, rows = "lhotse" if fit_to is None else "lhotse_fitted", []
    for number, meeting in enumerate(simulated):
        turns = sorted(meeting.supervisions, key=lambda turn: (turn.start, turn.recording_id))
        rows.append(mixture(kind, number, [(round(t.start * RATE_HZ), by_id[t.recording_id]) for t in turns]))
    return [row for row in rows if row is not None]


def singles_list(spoken: Mapping[str, Sequence[Spoken]], repeats: int) -> list[dict[str, Any]]:
    """Return each utterance alone, so many times, in drawn order."""
    by_id, tail = utterances_by_id(spoken), round(TAIL_S * RATE_HZ)
    return [
        given(f"single-{time}-{name}", "train", [(0, by_id[name])], {"condition": "single"}, tail)
        for time in range(repeats)
        for name in rng(0, "singles", str(time)).permutation(list(by_id)).tolist()
    ]


def list_of(
    kind: str,
    spoken: Mapping[str, Sequence[Spoken]],
    folder: Path,
    corpus: Path,
    meetings: Mapping[str, Sequence[Segment]],
    hours: float,
) -> list[dict[str, Any]]:
    """Return the mixtures of a kind that last so many hours, as rows of a list.

    Args:
        kind: one of KINDS.
        spoken: utterances of the train speakers.
        folder: where voices and prior are.
        corpus: folder of the utterances.
        meetings: AMI's train meetings.
        hours: of mixtures.

    Raises:
        InputError: too few mixtures could be made.
    """
    seconds = hours * 3600
    if kind in ("lhotse", "lhotse_fitted"):
        fit_to = meetings if kind == "lhotse_fitted" else None
        return prefix_lasting(lhotse_list(spoken, corpus, round(seconds / LEAST_S), fit_to), hours)
    if kind != "general":
        return prefix_lasting(our_list(kind, spoken, folder, round(seconds / LEAST_S)), hours)
    drawn = our_list("ours", spoken, folder, round(seconds / LEAST_IN_BOUNDS_S), kind)
    mixed = [row for row in drawn if is_within(row["columns"]["overlap_share"], SHARES)]
    alone = singles_list(spoken, 1 + round(seconds / LEAST_S / sum(map(len, spoken.values()))))
    return [
        *prefix_lasting(mixed, hours * (1 - SINGLE_SHARE)),
        *prefix_lasting(alone, hours * SINGLE_SHARE),
    ]
