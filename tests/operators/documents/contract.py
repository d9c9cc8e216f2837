"""What every task must do, checked on the task's own example; also used for tasks that tests add."""

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest

from models.sequence.batch import collate
from models.sequence.documents import AUDIO, TEXT, GridSpec
from models.sequence.tokenizer import ByteTokenizer
from operators.documents.compose import Compose
from operators.documents.tasks import TASKS, token_names
from operators.errors import InputError, UnusableRowError
from operators.packing.pack import Pack
from operators.schema import DOCUMENTS
from tests.models.support import packed
from tests.operators.documents.support import CODEC, codes_table, row_of

CONVERSATIONS = 6
CAPACITY = 4096
T = ByteTokenizer()


@dataclass(frozen=True)
class Case:
    """A task with conversations that have exactly what it declares to need."""

    name: str

    @property
    def task(self):
        return TASKS[self.name]

    def rows(self, *, stems=None, words=None):
        example = self.task.example
        return [
            row_of(
                example.turns,
                example.num_frames,
                f"c{number}",
                number,
                stems=self.task.needs_stems if stems is None else stems,
                enrolments=self.task.takes_voices,
                words=self.task.needs_word_times if words is None else words,
            )
            for number in range(CONVERSATIONS)
        ]

    def compose(self, **options):
        return Compose(tasks=(self.name,), **{**self.task.example.options, **options})

    def documents(self, rows=None, **options):
        return self.compose(**options)(codes_table(*(self.rows() if rows is None else rows)))

    @property
    def grid(self):
        layout = self.compose().layout_of(CODEC)
        return GridSpec(layout, CODEC.num_codebooks, CODEC.codebook_size, CODEC.bits)


def declares_itself(case):
    """The name is the table's, the token is the task's or its family's own, and readable."""
    task = case.task
    assert task.name == case.name
    shared = task.family or case.name
    sharing = {name: other for name, other in TASKS.items() if other.token == task.token}
    assert {other.family or name for name, other in sharing.items()} == {shared}
    constants = {value for name, value in vars(ByteTokenizer).items() if name.isupper() and name.lower() == shared}
    assert task.token in constants | set(ByteTokenizer.SPARE)
    assert T.show([task.token], token_names()) == f"<{shared}>"


def makes_documents_of_its_example(case):
    """At least one document, each within capacity and beginning with the task's token."""
    made = case.documents()
    assert made.schema.equals(DOCUMENTS)
    assert made.num_rows
    for row in made.to_pylist():
        assert row["task"] == case.name
        assert 1 < row["num_columns"] <= CAPACITY
        assert row["text_tokens"][0] == case.task.token
        assert row["segments"][0]["kind"] == TEXT
        assert row["segments"][0]["start_column"] == 0


def segments_fill_the_document(case):
    """Segments use up text and codes exactly and cover every column; only text may lie over audio."""
    layout = case.grid.layout
    for row in case.documents().to_pylist():
        text = sum(s["length"] for s in row["segments"] if s["kind"] == TEXT)
        frames = sum(s["length"] for s in row["segments"] if s["kind"] == AUDIO)
        assert text == len(row["text_tokens"])
        assert frames * CODEC.num_codebooks * CODEC.bits // 8 == len(row["codes"])
        covered = {TEXT: np.zeros(row["num_columns"], int), AUDIO: np.zeros(row["num_columns"], int)}
        for s in row["segments"]:
            length = s["length"] if s["kind"] == TEXT else layout.num_columns(s["length"])
            assert s["start_column"] >= 0
            assert s["start_column"] + length <= row["num_columns"]
            covered[s["kind"]][s["start_column"] : s["start_column"] + length] += 1
        assert covered[TEXT].max() == 1
        assert covered[AUDIO].max(initial=0) <= 1
        assert (covered[TEXT] + covered[AUDIO] >= 1).all()


def targets_are_as_declared(case):
    """Loss spans lie inside the document and after its first column; codes are targets where the task says so."""
    made = case.documents().to_pylist()
    for row in made:
        assert row["loss_spans"]
        for span in row["loss_spans"]:
            assert 1 <= span["start_column"] < span["end_column"] <= row["num_columns"]
            assert span["weight"] > 0
    assert any(s["kind"] == AUDIO for row in made for s in row["loss_spans"]) == case.task.predicts_audio


def talkers_are_as_declared(case):
    """The prompt's audio says who talks where the task declares it, and nowhere else."""
    for row in case.documents().to_pylist():
        assert bool(row["talker_spans"]) == case.task.marks_talkers
        for span in row["talker_spans"]:
            assert 0 <= span["talker"] < len(row["speakers"])
            assert 0 < span["start_column"] < span["end_column"] <= row["num_columns"]


def does_not_depend_on_the_batch(case):
    """Same rows, same documents: again, one at a time, and in another order."""
    rows = case.rows()
    whole = case.documents(rows).to_pylist()
    assert case.documents(rows).to_pylist() == whole
    assert [document for row in rows for document in case.documents([row]).to_pylist()] == whole
    shuffled = random.Random(0).sample(rows, len(rows))
    other = case.documents(shuffled).to_pylist()
    assert sorted(other, key=lambda row: row["document_id"]) == sorted(whole, key=lambda row: row["document_id"])


def is_packed_without_a_change(case):
    """Documents in one pack make the same cells and targets as each on its own."""
    made = case.documents()
    alone = {row["document_id"]: collate([packed(row)], case.grid) for row in made.to_pylist()}
    for pack in Pack(capacity=CAPACITY)(made).to_pylist():
        entries = [entry["document_id"] for entry in pack["documents"]]
        whole = collate(
            [replace(packed({**pack, "document_id": ""}), cu_seqlens=np.array(pack["cu_seqlens"], np.int32))], case.grid
        )
        parts = [alone[name] for name in entries]
        for field in ("text", "audio", "positions", "text_targets", "text_weights", "audio_targets", "audio_weights"):
            joined = np.concatenate([getattr(part, field).numpy() for part in parts])
            assert np.array_equal(getattr(whole, field).numpy(), joined), field


def needs_what_it_declares(case):
    """Without a declared need the row or the recipe is refused; without an undeclared one documents are still made."""
    task = case.task
    if task.needs_stems:
        with pytest.raises(UnusableRowError):
            case.documents(case.rows(stems=False))
    if task.needs_word_times:
        with pytest.raises(UnusableRowError):
            case.documents(case.rows(words=False))
    if task.needs_even_group:
        with pytest.raises(InputError, match=f"task {case.name} "):
            case.compose(group=1)
        odd = replace(Compose(**{**task.example.options, "group": 1}), tasks=("asr",))
        row = case.rows()[0]
        with pytest.raises(UnusableRowError):
            list(task.documents(odd.scene(row, odd.windows(row, CODEC)[0], CODEC, task.name, "odd")))
    else:
        assert case.documents(group=3).num_rows


CONTRACT = (
    declares_itself,
    makes_documents_of_its_example,
    segments_fill_the_document,
    targets_are_as_declared,
    talkers_are_as_declared,
    does_not_depend_on_the_batch,
    is_packed_without_a_change,
    needs_what_it_declares,
)
