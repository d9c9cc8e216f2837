"""What every packer must do; also used for packers that tests add."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from models.training.order import WINDOW_PACKS
from operators.errors import InputError
from operators.packing.counts import lower_bound
from operators.packing.pack import Pack
from operators.packing.packers import PACKERS
from operators.packing.packers.buckets import bucket_of
from tests.operators.packing.support import documents

CAPACITY = 64
CASES = [
    [],
    [1],
    [CAPACITY],
    [CAPACITY] * 5,
    [CAPACITY // 2 + 1] * 7,
    [1] * 200,
    *(np.random.default_rng(seed).integers(1, CAPACITY + 1, 150).tolist() for seed in range(12)),
    *(np.random.default_rng(seed).integers(1, 12, 300).tolist() for seed in range(4)),
]


def stream(name, lengths, per_batch, **options):
    table = documents(lengths)
    pack = Pack(capacity=CAPACITY, packer=name, **{"window_documents": 100, **options})
    made = list(pack.stream(table.slice(i, per_batch) for i in range(0, len(lengths), per_batch)))
    return pa.concat_tables(made), [packs.num_rows for packs in made]


def declares_itself(name):
    assert PACKERS[name].name == name
    assert Pack(packer=name).packer == name


def packs_every_document_once_and_none_above_capacity(name):
    for lengths in CASES:
        plan = PACKERS[name].plan(lengths, CAPACITY)
        assert sorted(plan.rows.tolist()) == list(range(len(lengths)))
        assert plan.offsets[0] == 0
        assert (np.diff(plan.offsets) > 0).all()
        assert (plan.sums(np.array(lengths, int)) <= CAPACITY).all()
        assert len(plan) >= lower_bound(lengths, CAPACITY)


def keeps_its_bound(name):
    for lengths in CASES:
        assert len(PACKERS[name].plan(lengths, CAPACITY)) <= PACKERS[name].most_packs(lengths, CAPACITY) <= len(lengths)


def refuses_documents_that_cannot_be_packed(name):
    with pytest.raises(ValueError, match="document 1 has 9 columns; a pack holds 1 to 8"):
        PACKERS[name].plan([3, 9], 8)
    with pytest.raises(ValueError, match="document 0 has 0 columns"):
        PACKERS[name].plan([0], 8)


def plans_the_same_again(name):
    for lengths in CASES:
        plan, again = (PACKERS[name].plan(lengths, CAPACITY) for _ in range(2))
        assert np.array_equal(plan.offsets, again.offsets)
        assert np.array_equal(plan.rows, again.rows)


def cuts_no_document(name):
    """Through windows of a stream, every document arrives once, with all of its streams and spans."""
    table = documents(np.random.default_rng(2).integers(2, 60, 900))
    made, _ = stream(name, table["num_columns"].to_pylist(), 70)
    expected = {row["document_id"]: row for row in table.to_pylist()}
    seen = []
    for row in made.to_pylist():
        token, byte = 0, 0
        borders = list(itertools.pairwise(row["cu_seqlens"]))
        assert row["sum_squares"] == sum((end - start) ** 2 for start, end in borders)
        for number, (entry, (start, end)) in enumerate(zip(row["documents"], borders, strict=True)):
            document = expected[entry["document_id"]]
            assert end - start == document["num_columns"]
            assert row["segments"][number]["start_column"] == start
            span = row["loss_spans"][number]
            assert (span["start_column"], span["end_column"]) == (start + 1, end)
            assert row["text_tokens"][token : token + end - start] == document["text_tokens"]
            assert row["codes"][byte : byte + len(document["codes"])] == document["codes"]
            token, byte = token + end - start, byte + len(document["codes"])
            seen.append(entry["document_id"])
        assert (token, byte) == (len(row["text_tokens"]), len(row["codes"]))
        assert row["cu_seqlens"][-1] == row["num_columns"] <= CAPACITY
    assert sorted(seen) == sorted(expected)


def does_not_depend_on_batches(name):
    """The same packs in the same order, however the stream is cut into batches."""
    lengths = np.random.default_rng(3).integers(2, 60, 450).tolist()
    whole, _ = stream(name, lengths, len(lengths))
    for per_batch in (1, 37, 100):
        assert stream(name, lengths, per_batch)[0].equals(whole)


def does_not_depend_on_order_within_a_window(name):
    table = documents(np.random.default_rng(4).integers(2, 60, 90))
    shuffled = table.take(np.random.default_rng(0).permutation(table.num_rows))
    pack = Pack(capacity=CAPACITY, packer=name, window_documents=100)
    assert pack(shuffled).equals(pack(table))


def makes_progress_in_every_window(name):
    """Each table that a stream yields holds packs, so memory is bounded where windows are."""
    _, sizes = stream(name, np.random.default_rng(5).integers(2, 60, 900).tolist(), 70)
    assert all(sizes)


def groups_and_buckets_are_as_declared(name):
    packer = PACKERS[name]
    if packer.groups_costliest:
        lengths = np.random.default_rng(6).integers(2, 60, 3 * WINDOW_PACKS * 2).tolist()
        made, sizes = stream(name, lengths, 5000)
        assert sizes[0] == WINDOW_PACKS
        for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
            squares = made["sum_squares"].to_numpy()[start : start + size]
            assert (np.diff(squares) <= 0).all()
    if packer.by_length:
        lengths = np.random.default_rng(7).integers(1, 400, 500)
        plan = packer.plan(lengths, 512)
        buckets = [set(bucket_of(lengths[plan.pack(i)], 512).tolist()) for i in range(len(plan))]
        assert all(len(bucket) == 1 for bucket in buckets)
        assert buckets == sorted(buckets, key=min)


def goes_with_related_where_declared(name):
    for related in ("together", "apart"):
        if PACKERS[name].supports_related:
            assert Pack(packer=name, related=related, capacity=CAPACITY)(documents([30, 20, 10])).num_rows
        else:
            with pytest.raises(InputError, match=f"pack.related {related} goes with pack.packer .*, not {name}"):
                Pack(packer=name, related=related)


CONTRACT = (
    declares_itself,
    packs_every_document_once_and_none_above_capacity,
    keeps_its_bound,
    refuses_documents_that_cannot_be_packed,
    plans_the_same_again,
    cuts_no_document,
    does_not_depend_on_batches,
    does_not_depend_on_order_within_a_window,
    makes_progress_in_every_window,
    groups_and_buckets_are_as_declared,
    goes_with_related_where_declared,
)
