import multiprocessing
import os
from pathlib import Path

import pyarrow as pa
import pytest

from operators.digest import merkle_root
from operators.errors import InputError
from operators.schema import SCHEMA_VERSION
from operators.store.dataset import Dataset, Partition, stale_reason

SCHEMA = pa.schema([("n", pa.int64())])


def partition(name="p-0", **depends):
    return Partition(partition_id=name, row_ids=("a",), depends={"seed": 0, **depends})


def fill(*values):
    return lambda writer: writer.write(pa.table({"n": list(values)}, schema=SCHEMA))


def test_a_committed_partition_opens_with_plain_pyarrow_and_checks_out(tmp_path):
    dataset = Dataset(str(tmp_path), "numbers")
    receipt = dataset.commit(partition(), SCHEMA, {"hubbub.codec": "none"}, fill(1, 2, 3))
    with pa.memory_map(dataset.rows_url(receipt)) as source:
        read = pa.ipc.open_file(source).read_all()
    assert read.column("n").to_pylist() == [1, 2, 3]
    assert read.schema.metadata[b"hubbub.schema_version"] == SCHEMA_VERSION.encode()
    snapshot = dataset.snapshot([receipt], {}, {})
    assert dataset.verify(snapshot) == []
    assert snapshot.merkle_root == merkle_root([("p-0", receipt.content_digest)])


def test_any_flipped_bit_is_found(tmp_path):
    dataset = Dataset(str(tmp_path), "numbers")
    snapshot = dataset.snapshot([dataset.commit(partition(), SCHEMA, {}, fill(*range(1000)))], {}, {})
    path = dataset.rows_url(snapshot.receipts[0])
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 1
    os.chmod(path, 0o644)
    Path(path).write_bytes(bytes(data))
    assert dataset.verify(snapshot) == [f"{path} is not what was committed"]
    os.remove(path)
    assert dataset.verify(snapshot) == [f"{path} is missing"]
    with pytest.raises(InputError, match="is missing; remove its receipt"):
        dataset.open(snapshot.receipts[0])


def test_a_commit_is_never_overwritten(tmp_path):
    dataset = Dataset(str(tmp_path), "numbers")
    first = dataset.commit(partition(), SCHEMA, {}, fill(1))
    again = dataset.commit(partition(), SCHEMA, {}, fill(2))
    assert first == again
    assert dataset.read(dataset.snapshot([again], {}, {}))["n"].to_pylist() == [1]


@pytest.mark.parametrize("left", ["what is made again", "something else"])
def test_rows_without_a_receipt_never_become_committed_unless_they_are_what_was_made(tmp_path, left):
    """A worker killed between the rows and the receipt leaves rows; a removed receipt may leave damaged ones."""
    dataset = Dataset(str(tmp_path), "numbers")
    first = dataset.commit(partition(), SCHEMA, {}, fill(1))
    os.remove(dataset.rows_url(first).replace(".arrow", ".json"))
    if left == "something else":
        Path(dataset.rows_url(first)).write_bytes(b"damaged")
    assert dataset.committed(partition()) is None
    again = dataset.commit(partition(), SCHEMA, {}, fill(1))
    assert again.content_digest == first.content_digest


def test_a_failing_fill_leaves_nothing_behind(tmp_path):
    dataset = Dataset(str(tmp_path), "numbers")

    def fail(writer):
        writer.write(pa.table({"n": [1]}, schema=SCHEMA))
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        dataset.commit(partition(), SCHEMA, {}, fail)
    assert os.listdir(tmp_path / "numbers/partitions") == []


def _race(root, value, barrier, results):
    barrier.wait()
    results.put(Dataset(root, "numbers").commit(partition(), SCHEMA, {}, fill(*[value] * 1000)).content_digest)


def test_two_writers_agree_on_the_first_commit(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    racers = [context.Process(target=_race, args=(str(tmp_path), i, barrier, results)) for i in range(2)]
    for racer in racers:
        racer.start()
    digests = {results.get(timeout=60) for _ in racers}
    for racer in racers:
        racer.join()
    assert len(digests) == 1


def test_snapshots_are_numbered_and_only_new_ones_are_written(tmp_path):
    dataset = Dataset(str(tmp_path), "numbers")
    one = dataset.commit(partition("p-0"), SCHEMA, {}, fill(1))
    two = dataset.commit(partition("p-1"), SCHEMA, {}, fill(2))
    assert dataset.snapshot([one], {}, {}).number == 1
    assert dataset.snapshot([one], {}, {"later": True}).number == 1
    both = dataset.snapshot([two, one], {}, {})
    assert both.number == 2
    assert both.merkle_root == dataset.snapshot([one, two], {}, {}).merkle_root
    assert dataset.latest() == both
    assert dataset.numbered(1).num_rows == 1


def test_the_key_names_what_rows_depend_on_and_the_reason_says_what_changed(tmp_path):
    before = Dataset(str(tmp_path), "numbers").commit(partition(gain=1.0), SCHEMA, {}, fill(1))
    assert partition(gain=1.0).key == before.key
    changed = partition(gain=2.0)
    assert changed.key != before.key
    assert stale_reason(changed, before) == "gain 1.0 -> 2.0"
    assert stale_reason(changed, None) == "new"
    below = partition(codes={"train-0": "a" * 32})
    receipt = Dataset(str(tmp_path), "packs").commit(below, SCHEMA, {}, fill(1))
    assert stale_reason(partition(codes={"train-0": "b" * 32}), receipt) == "codes upstream"
