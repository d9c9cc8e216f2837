"""Scores of an evaluation: of checkpoints' answers and of baselines, with their tables and pages."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.config.intact import sealed
from operators.corpus.normalizers import normalize
from operators.digest import digest
from operators.documents.tasks import TASKS
from operators.errors import InputError
from operators.evaluate import segments
from operators.evaluate.ask import asked_words, reference_answers
from operators.evaluate.baselines import MEASURES as OF_BASELINES
from operators.evaluate.baselines import baseline, round_trip
from operators.evaluate.transcribe import Transcribe
from operators.rng import rng
from operators.scoring.sessions import MEASURED
from operators.store import storage
from pipelines.plan.job import PartitionRef
from pipelines.plan.output import read_evaluation
from pipelines.plan.stage import Plan
from pipelines.recipes.recipe import Evaluation
from pipelines.stages.asked import (
    OF_WINDOWS,
    WHICH,
    Recognition,
    Transcription,
    asked_compose,
    evaluated_tasks,
    transcriber,
)
from pipelines.stages.columns import Columns, conversation_columns
from pipelines.stages.score_tables import overview
from pipelines.stages.sounds import Sounds
from pipelines.stages.upstream import receipt_of

MEASURES: Mapping[str, tuple[str, ...]] = {
    "conversation": (*("cpwer", "wer", "cer", "orcwer", "dicpwer", "speaker_count_accuracy", "speaker_count_error"),),
    "talkers": ("cpwer", "wer", "cer", "orcwer", "dicpwer"),
    "speakers": ("cpwer", "wer", "cer"),
    "utterances": ("orcwer", "cer"),
    "likelihood": ("nll",),
}
"""Measures of a task by how it is judged, the one that tables and curves show first."""
TIMED_MEASURES = (
    *("tcpwer", "tcorcwer", "der", "der_collar_0.25", "jer"),
    *("word_start_median", "word_start_mean", "turn_start_median", "turn_start_mean"),
)
"""Further measures of tasks that predict times."""
ORTHOGRAPHIC = ("cpwer", "wer", "cer")
"""Measures of tasks that write formatted text, without a normalizer besides."""
OF_RECOGNIZERS: Mapping[str, tuple[str, ...]] = {
    "segments": ("cpwer", "wer", "cer"),
    "mixture": OF_BASELINES["no-speakers"],
}
"""Measures of recognizers by what they hear; the times and speakers of `segments` are the reference's own."""


def score(plan: Plan) -> dict[str, Any]:
    """Score hypotheses against references; write both, tables, pages and the metrics; return the metrics."""
    output, recipe = plan.output, plan.recipe
    folder = output.evaluation(plan.evaluation_key)
    tasks = evaluated_tasks(recipe)
    scorer = Scorer(plan, folder)
    result: dict[str, Any] = {}
    for which in WHICH:
        found = {task: scorer.checkpoint(which, task) for task in tasks}
        if all(found.values()):
            # The first task's scores are the checkpoint's own.
            first = found[tasks[0]]
            own = {"checkpoint": str(plan.checkpoint_of(which)), "num_cut": first["num_cut"], **first["measures"]}
            result[which] = {**own, "tasks": found}
    operator = transcriber(recipe, str(plan.checkpoint_of("trained")), tasks[0])
    transcribe = operator if isinstance(operator, Transcribe) else operator.transcribe
    metrics = {
        **result,
        "baselines": {**scorer.baselines(tasks), **scorer.recognizers()},
        "unknown_slices": scorer.unknown_slices(),
        "task": tasks[0],
        "headline": MEASURES[TASKS[tasks[0]].judged_by][0],
        "splits": plan.splits.describe(),
        "decoding": {
            "windows_s": transcribe.longest_s,
            "shared_s": transcribe.shared_s,
            "cut": recipe.evaluate.cut,
            "join": recipe.evaluate.join,
            "max_tokens": transcribe.most_tokens,
            "constrain": recipe.evaluate.constrain,
        },
        "codes": digest([p.key for p in plan.stage("codes").partitions])[:32],
        "answers": plan.answers_digest,
        "scoring": plan.scoring,
        "recipe_digest": recipe.digest,
    }
    storage.replace_bytes(overview(metrics).encode(), str(folder / "table.md"))
    storage.replace_bytes(sealed(metrics), str(folder / "metrics.json"))
    return metrics


def why_scored_again(plan: Plan) -> str:
    """Return why transcripts that are all there must be scored again; empty where they are scored, or are not there."""
    if plan.stage("hypotheses").stale or plan.evaluation_done():
        return ""
    for path in sorted(plan.output.evaluation(plan.evaluation_key).parent.glob("*/metrics.json")):
        before = read_evaluation(path)
        if before.get("answers") == plan.answers_digest:
            return ", ".join(
                f"{name} {before['scoring'].get(name)} -> {value}"
                for name, value in plan.scoring.items()
                if before["scoring"].get(name) != value
            )
    return "never scored"


@dataclass
class Scorer:
    """Scores answers of one plan, and writes what was compared, tables and pages to one folder."""

    plan: Plan
    folder: Path

    @cached_property
    def sounds(self) -> Sounds:
        """Sound of the conversations on the pages."""
        return Sounds(self.plan, self.folder)

    @cached_property
    def columns(self) -> Columns:
        """What every conversation of the test split can be sliced by."""
        codes = self.plan.output.dataset("codes")
        parts = [
            codes.open(receipt_of(codes, PartitionRef(one.partition_id, one.key))).read_all()
            for one in self.plan.stage("codes").partitions
            if one.partition_id.startswith("test-")
        ]
        return conversation_columns(self.plan, pa.concat_tables(parts))

    def unknown_slices(self) -> list[str]:
        """Return the columns of `evaluate.slices`, besides its defaults, that no conversation has."""
        known = {name for values in self.columns.values() for name in values} | set(MEASURED) | set(Evaluation().slices)
        return [name for name in self.plan.recipe.evaluate.slices if name not in known]

    def checkpoint(self, which: str, task: str) -> dict[str, Any]:
        """Score one checkpoint's answers to one task; nothing where there are none."""
        recipe, judge = self.plan.recipe, TASKS[task].judged_by
        answers = self._partitions(which, task)
        if not answers:
            return {}
        codes, written = (pa.concat_tables(side) for side in zip(*answers, strict=True))
        num_cut = sum(written["num_cut"].to_pylist())
        if judge == "likelihood":
            return {"num_cut": 0, "measures": {"nll": _likelihood(written, recipe.seed)}}
        rate_hz, apart = recipe.encode.spec.frame_rate_hz, judge in OF_WINDOWS or not recipe.evaluate.join
        if judge in OF_WINDOWS:
            compose = asked_compose(recipe, task)
            asked = [part for part, _ in answers]
            reference = [
                one for part in asked for one in reference_answers(part, compose, asked_words([part], compose))
            ]
            if not reference:
                raise InputError(
                    f"evaluate.tasks: nothing in the test split can be asked by {task}: it lacks what is asked about; "
                    "name the other tasks in --evaluate.tasks"
                )
        else:
            reference = segments.reference_segments(codes, rate_hz, segments.windows_of(written) if apart else None)
        is_timed = TASKS[task].predicts_times
        hypothesis = segments.hypothesis_segments(written, rate_hz, is_timed=is_timed, apart=apart)
        names = (*MEASURES[judge], *TASKS[task].also_measured, *(TIMED_MEASURES if is_timed else ()))
        text = json.dumps(reference, indent=1, ensure_ascii=False) + "\n"
        storage.replace_bytes(text.encode(), str(self.folder / f"{task}_reference.seglst.json"))
        found = {"num_cut": num_cut, **self._measured((reference, hypothesis), names, f"{which}_{task}")}
        if TASKS[task].writes_formatted:
            found["measures"] |= self._orthographic((reference, hypothesis), f"{which}_{task}")
        return found

    def _orthographic(self, both: tuple[Any, Any], name: str) -> dict[str, Any]:
        """Measure formatted text as it stands: words differ by case and punctuation too."""
        measured = self._measured(both, ORTHOGRAPHIC, f"{name}_orthographic", normalizer="none")["measures"]
        for one in measured.values():
            one["row"] = [f"orthographic {one['row'][0]}", *one["row"][1:]]
        return {f"orthographic_{measure}": one for measure, one in measured.items()}

    def baselines(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Score the recipe's baselines on what the first task that is judged by conversations was asked about."""
        recipe, rate_hz = self.plan.recipe, self.plan.recipe.encode.spec.frame_rate_hz
        task = next((task for task in tasks if TASKS[task].judged_by == "conversation"), None)
        codes, written = self._answers("trained", task) if task else (None, None)
        if codes is None or written is None:
            return {}
        windows = None if recipe.evaluate.join else segments.windows_of(written)
        reference = segments.reference_segments(codes, rate_hz, windows)
        tokenizer = recipe.compose.loaded_tokenizer

        def write(words: str) -> str:
            text = normalize(words) if recipe.compose.text == "normalized" else words
            return round_trip(tokenizer.encode, tokenizer.decode, text)

        found: dict[str, Any] = {}
        for name in recipe.evaluate.baselines:
            both = reference, baseline(name, reference, write)
            found[name] = {"task": task, **self._measured(both, OF_BASELINES[name], name)}
        return found

    def recognizers(self) -> dict[str, Any]:
        """Score what recognizers heard in the test split's conversations, each as one session."""
        stage, rate_hz = self.plan.stage("hypotheses"), self.plan.recipe.encode.spec.frame_rate_hz
        payloads = [stage.payloads[one.partition_id] for one in stage.partitions]
        heard = {one.name: one.over for one in payloads if isinstance(one, Recognition)}
        found: dict[str, Any] = {}
        for name, over in heard.items():
            codes, written = self._answers(name, over)
            assert codes is not None
            assert written is not None
            # What could be rendered but not encoded was asked of no checkpoint either.
            written = written.filter(pc.is_in(written["conversation_id"], value_set=codes["conversation_id"]))
            reference = segments.reference_segments(codes, rate_hz)
            both = reference, segments.hypothesis_segments(written, rate_hz, is_timed=True)
            found[name] = {"task": over, **self._measured(both, OF_RECOGNIZERS[over], name)}
        return found

    def _measured(
        self, both: tuple[Any, Any], names: tuple[str, ...], name: str, normalizer: str | None = None
    ) -> dict[str, Any]:
        """Measure a hypothesis against its reference, and write it and its scores to files whose names start so.

        Words are normalized as the recipe evaluates, unless a normalizer is named.
        """
        from operators.scoring import page, table
        from operators.scoring.result import Conditions
        from operators.scoring.score import measure, scores_of

        reference, hypothesis = both
        recipe = self.plan.recipe
        columns = {entry["session_id"]: self.columns[entry["recording_id"]] for entry in reference}
        normalizer = normalizer or recipe.evaluate.normalizer
        conditions = Conditions(normalizer=normalizer, seed=recipe.seed, measures=names)
        measured = measure(reference, hypothesis, conditions, columns=columns)
        # A column with one value in all sessions slices nothing.
        wanted = ("num_speakers", "instruction", *recipe.evaluate.slices)
        values = {column: {one.columns.get(column) for one in measured.sessions} for column in wanted}
        scores = scores_of(measured, by=[column for column in wanted if len(values[column]) > 1])
        recording = {one.session_id: one.recording_id for one in measured.sessions}
        heard = self.sounds.of(recording[one.session_id] for one in scores.worst)
        sounds = {one.session_id: heard[recording[one.session_id]] for one in scores.worst}
        for file, text in (
            (f"{name}_hypothesis.seglst.json", json.dumps(hypothesis, indent=1, ensure_ascii=False) + "\n"),
            (f"{name}_scores.json", table.as_json(scores)),
            (f"{name}_scores.md", table.markdown(scores)),
            (f"{name}_worst.html", page.page(scores, sounds)),
        ):
            storage.replace_bytes(text.encode(), str(self.folder / file))
        header, sliced = table.slice_rows(scores.slices, table.SLICED)
        return {
            "slices": {"header": header, "rows": sliced},
            "meaning": table.meaning(scores.conditions, scores.resampled),
            "left_out": dict(scores.left_out),
            "measures": {
                figure.measure: {
                    "rate": figure.value,
                    "low": figure.low,
                    "high": figure.high,
                    "base": figure.base,
                    **figure.counts,
                    "confusion": figure.confusion,
                    "num_recordings": scores.num_recordings,
                    "num_sessions": figure.num_sessions,
                    "row": table.row(figure),
                }
                for figure in scores.figures
            },
        }

    def _answers(self, which: str, task: str) -> tuple[pa.Table | None, pa.Table | None]:
        """Return the codes that a checkpoint or recognizer was asked about, and its answers; None where it was not."""
        read = self._partitions(which, task)
        if not read:
            return None, None
        codes, written = (pa.concat_tables(side) for side in zip(*read, strict=True))
        return codes, written

    def _partitions(self, which: str, task: str) -> list[tuple[pa.Table, pa.Table]]:
        """Return the codes of each partition that a checkpoint or recognizer was asked about, and its answers."""
        output, stage = self.plan.output, self.plan.stage("hypotheses")
        codes, hypotheses = output.dataset("codes"), output.dataset("hypotheses")
        read: list[tuple[pa.Table, pa.Table]] = []
        for partition in stage.partitions:
            payload = stage.payloads[partition.partition_id]
            if _asked(payload) == (which, task):
                ref = PartitionRef(partition.partition_id, partition.key)
                read.append(
                    (
                        codes.open(receipt_of(codes, payload.codes)).read_all(),
                        hypotheses.open(receipt_of(hypotheses, ref)).read_all(),
                    )
                )
        return read


def _asked(payload: Transcription | Recognition) -> tuple[str, str]:
    """Return who was asked, and what."""
    if isinstance(payload, Recognition):
        return payload.name, payload.over
    return payload.which, payload.task


def _likelihood(written: pa.Table, seed: int) -> dict[str, Any]:
    """Return the mean negative log-likelihood of targets in nats, with its bootstrap interval over conversations."""
    parts = np.array([written["nll"].to_pylist(), written["nll_weight"].to_pylist()], np.float64).T
    parts = parts[np.isfinite(parts).all(axis=1)]
    if not len(parts):
        return {"rate": None, "low": None, "high": None, "base": 0.0, "row": ["NLL", "-", "-", "0", ""]}
    draws = parts[rng(seed, "bootstrap", "nll").integers(0, len(parts), size=(1000, len(parts)))].sum(axis=1)
    low, high = (float(value) for value in np.percentile(draws[:, 0] / draws[:, 1], (2.5, 97.5)))
    total, weight = (float(value) for value in parts.sum(axis=0))
    row = ["NLL, nats", f"{total / weight:.3f}", f"{low:.3f} to {high:.3f}", f"{weight:.0f}", ""]
    measured = {"rate": total / weight, "low": low, "high": high, "base": weight}
    return {**measured, "num_recordings": len(parts), "row": row}
