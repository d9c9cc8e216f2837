"""Data sets: partitions committed once, listed in numbered snapshots with a Merkle root.

    <root>/<name>/partitions/<id>-<key>.arrow    the rows (Arrow IPC file, uncompressed)
    <root>/<name>/partitions/<id>-<key>.json     the receipt; its presence is the commit
    <root>/<name>/snapshots/000001.json          what belongs together: receipts, Merkle root, inputs

A key is a hash of everything that the rows depend on. A partition that was committed is never written again:
where two workers race, the first commit wins and both report it.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from models.config.intact import check_file, sealed, unsealed
from operators.digest import canonical_json, digest, digest_file, digest_json, merkle_root, to_jsonable
from operators.errors import InputError
from operators.schema import SCHEMA_VERSION
from operators.store import storage
from operators.store.cache import Cache, damaged_remedy
from operators.store.names import plain_name
from operators.store.remote import check_url


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A row that could not be used, and why."""

    row_id: str
    reason: str


_TRIES = 11
_WAIT_S = 0.2
"""Together: how long a worker that has written its rows may take to write their receipt."""

_HASHED: dict[int, tuple[Any, str]] = {}


def _once(value: Any) -> str:
    """Return a value's digest, from the last time this very object was asked for where that is remembered."""
    known = _HASHED.get(id(value))
    if known is not None and known[0] is value:
        return known[1]
    if len(_HASHED) > 256:
        _HASHED.clear()
    _HASHED[id(value)] = value, digest(value)
    return _HASHED[id(value)][1]


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A unit of work, known before any work starts."""

    partition_id: str
    """Its place in the data set, the same from one recipe to the next."""
    row_ids: tuple[str, ...]
    """The rows it is to hold: never whatever block a scheduler hands over."""
    depends: Mapping[str, Any]
    """Everything the rows depend on: versions, configuration, digests of the rows used, seed."""

    @cached_property
    def key(self) -> str:
        """The hash that names this partition's content."""
        # What many partitions depend on is the same object in all of them, and is hashed once.
        parts = {
            n: _once(v) if isinstance(v, dict) else v if isinstance(v, str) else to_jsonable(v)
            for n, v in self.depends.items()
        }
        return digest_json({"rows": self.row_ids, "depends": parts})[:32]


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a committed partition holds."""

    partition_id: str
    key: str
    num_rows: int
    num_bytes: int
    content_digest: str
    counts: Mapping[str, float] = field(default_factory=dict)
    """Sums worth showing: hours of audio, tokens, clipped offsets, seconds spent."""
    quarantined: tuple[Quarantined, ...] = ()
    depends: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Receipt":
        """Read a receipt back.

        Raises:
            InputError: its id or key could name a file elsewhere.
            KeyError, TypeError: it is not what was written.
        """
        plain_name(data["partition_id"], "partition id"), plain_name(data["key"], "partition key")
        if not (type(data["num_rows"]) is type(data["num_bytes"]) is int and isinstance(data["content_digest"], str)):
            raise TypeError("numbers of rows and bytes are integers")
        return Receipt(**{**data, "quarantined": tuple(Quarantined(**q) for q in data["quarantined"])})


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A data set at one moment: which partitions it consists of, and what they were made from."""

    number: int
    name: str
    receipts: tuple[Receipt, ...]
    merkle_root: str
    inputs: Mapping[str, str]
    """Merkle root (or digest) of each data set that this one was made from."""
    made_by: Mapping[str, Any]
    """Recipe digest, seed and code version."""

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Snapshot":
        """Read a snapshot back."""
        return Snapshot(**{**data, "receipts": tuple(Receipt.from_json(r) for r in data["receipts"])})

    @property
    def num_rows(self) -> int:
        """Rows in all partitions."""
        return sum(receipt.num_rows for receipt in self.receipts)

    def total(self, count: str) -> float:
        """Return the sum of one count over all partitions."""
        return sum(receipt.counts.get(count, 0) for receipt in self.receipts)


class RowWriter:
    """Writes a partition's record batches, hashes and counts as they come."""

    def __init__(self, path: Path, schema: pa.Schema, metadata: Mapping[str, str]) -> None:
        """Open the file; `metadata` explains the columns to other readers of the file."""
        tags = {"hubbub.schema_version": SCHEMA_VERSION, **metadata}
        self._schema = schema.with_metadata(dict(sorted(tags.items())))
        self._writer = pa.ipc.new_file(str(path), self._schema)
        self.num_rows = 0
        self.counts: dict[str, float] = {}
        self.quarantined: list[Quarantined] = []

    def write(self, rows: pa.Table) -> None:
        """Append rows; they must have exactly the declared columns."""
        if rows.num_rows:
            self._writer.write_table(rows.select(self._schema.names).cast(self._schema))
            self.num_rows += rows.num_rows

    def count(self, **amounts: float) -> None:
        """Add to the counts."""
        for name, amount in amounts.items():
            self.counts[name] = self.counts.get(name, 0) + amount

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


@dataclass(frozen=True)
class Dataset:
    """One data set below a root folder or URL."""

    root: str
    name: str

    def __post_init__(self) -> None:
        """Check the name, which becomes a folder."""
        plain_name(self.name, "data set")

    def url(self, *parts: str) -> str:
        """Return the URL of something in the data set."""
        return storage.join(self.root, self.name, *parts)

    def _url_of(self, partition_id: str, key: str, suffix: str) -> str:
        return self.url("partitions", f"{partition_id}-{key}{suffix}")

    def rows_url(self, receipt: Receipt) -> str:
        """Return the URL of a partition's Arrow file."""
        return self._url_of(receipt.partition_id, receipt.key, ".arrow")

    def receipt_url(self, receipt: Receipt) -> str:
        """Return the URL of the file whose presence is a partition's commit."""
        return self._url_of(receipt.partition_id, receipt.key, ".json")

    def committed(self, partition: Partition) -> Receipt | None:
        """Return the receipt of a partition that is done, else None."""
        return self.committed_by_key(partition.partition_id, partition.key)

    def committed_by_key(self, partition_id: str, key: str) -> Receipt | None:
        """Return the receipt of a partition by id and key, else None."""
        url = self._url_of(partition_id, key, ".json")
        data = storage.read_bytes(url)
        if data is None:
            return None
        remedy = f"remove {url} and run again: the partition is committed anew"
        receipt: Receipt = _read_back(Receipt.from_json, data, url, remedy)
        if (receipt.partition_id, receipt.key) != (partition_id, key):
            raise InputError(f"{url} is the receipt of {receipt.partition_id}-{receipt.key}; {remedy}")
        return receipt

    def committed_names(self) -> set[str]:
        """Return `<id>-<key>` of every committed partition, by one listing."""
        names = storage.list_names(self.url("partitions"))
        return {name.removesuffix(".json") for name in names if name.endswith(".json")}

    def commit(
        self,
        partition: Partition,
        schema: pa.Schema,
        metadata: Mapping[str, str],
        fill: Callable[[RowWriter], None],
    ) -> Receipt:
        """Make a partition and commit it, unless it is there already.

        Args:
            partition: what to make.
            schema: the data set's declared columns.
            metadata: what the columns' integers mean (codec, layout, tokenizer).
            fill: writes the rows, in chunks; if it raises, no partial file is left.
        """
        done = self.committed(partition)
        if done is not None:
            return done
        rows_url = self._url_of(partition.partition_id, partition.key, ".arrow")
        with storage.scratch_file(near=rows_url) as scratch:
            writer, started = RowWriter(scratch, schema, metadata), time.monotonic()
            try:
                fill(writer)
            finally:
                writer.close()
            writer.count(seconds=round(time.monotonic() - started, 3))  # what a plan estimates the next one by
            size, content = scratch.stat().st_size, digest_file(scratch)
            if (won := self._without_rows_of_others(partition, (size, content))) is not None:
                return won
            if not storage.put_file(scratch, rows_url):
                size, content = storage.digest_of(rows_url)  # another worker was faster: its bytes count
        receipt = Receipt(
            partition_id=partition.partition_id,
            key=partition.key,
            num_rows=writer.num_rows,
            num_bytes=size,
            content_digest=content,
            counts=writer.counts,
            quarantined=tuple(writer.quarantined),
            depends=to_jsonable(partition.depends),
        )
        storage.put_bytes(sealed(to_jsonable(receipt)), self.receipt_url(receipt))
        return self.committed(partition) or receipt

    def _without_rows_of_others(self, partition: Partition, made: tuple[int, str]) -> Receipt | None:
        """Remove rows that stand there without a receipt and are not the (size, digest) just made.

        A worker that was killed left them, or they were altered after their receipt was removed: nothing says that they
        are whole. The receipt of a worker that is alive follows its rows at once, and is returned.
        """
        rows_url = self._url_of(partition.partition_id, partition.key, ".arrow")
        for attempt in range(_TRIES):
            if not storage.exists(rows_url) or storage.digest_of(rows_url) == made:
                return None
            if attempt:
                time.sleep(_WAIT_S)
            if (won := self.committed(partition)) is not None:
                return won
        storage.remove(rows_url)
        return None

    def latest(self) -> Snapshot | None:
        """Return the newest snapshot, or None before the first."""
        numbers = self.snapshot_numbers()
        return self.numbered(numbers[-1]) if numbers else None

    def snapshot_numbers(self) -> list[int]:
        """Return the numbers of all snapshots, ascending."""
        names = [n.removesuffix(".json") for n in storage.list_names(self.url("snapshots")) if n.endswith(".json")]
        return sorted(int(name) for name in names if name.isdecimal())

    def numbered(self, number: int) -> Snapshot | None:
        """Return a snapshot by its number, or None."""
        url = self.url("snapshots", f"{number:06d}.json")
        data = storage.read_bytes(url)
        if data is None:
            return None
        remedy = f"remove {url} and run again: a snapshot is taken anew from the receipts"
        snapshot: Snapshot = _read_back(Snapshot.from_json, data, url, remedy)
        if (snapshot.number, snapshot.name) != (number, self.name):
            raise InputError(f"{url} is snapshot {snapshot.number} of {snapshot.name}; {remedy}")
        return snapshot

    def snapshot(self, receipts: Iterable[Receipt], inputs: Mapping[str, str], made_by: Mapping[str, Any]) -> Snapshot:
        """Commit the next numbered snapshot, unless the newest is equal."""
        ordered = tuple(sorted(receipts, key=lambda receipt: receipt.partition_id))
        root = merkle_root((r.partition_id, r.content_digest) for r in ordered)
        while True:
            newest = self.latest()
            same = newest is not None and newest.merkle_root == root and dict(newest.inputs) == dict(inputs)
            if newest is not None and same and [r.key for r in newest.receipts] == [r.key for r in ordered]:
                return newest
            made = Snapshot(
                number=(newest.number if newest else 0) + 1,
                name=self.name,
                receipts=ordered,
                merkle_root=root,
                inputs=dict(inputs),
                made_by=dict(made_by),
            )
            if storage.put_bytes(sealed(to_jsonable(made)), self.url("snapshots", f"{made.number:06d}.json")):
                return made

    def open(self, receipt: Receipt) -> pa.ipc.RecordBatchFileReader:
        """Open a partition, memory-mapped, after holding it against its receipt.

        Raises:
            InputError: the file is missing, damaged or cannot be read, or has a different schema version.
        """
        url = self.rows_url(receipt)
        path = Cache.default().fetch(url, receipt.num_bytes, receipt.content_digest)
        remedy = damaged_remedy(url)
        is_known = check_file(path, receipt.num_bytes, receipt.content_digest, remedy, url)
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            if not is_known:  # an offset that points outside of the mapping would kill the process
                batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
                for batch in batches:
                    batch.validate(full=True)
                if sum(batch.num_rows for batch in batches) != receipt.num_rows:
                    raise pa.ArrowInvalid(f"it does not hold {receipt.num_rows} rows")
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{url} is damaged ({str(error).splitlines()[0]}); {remedy}") from error
        version = (reader.schema.metadata or {}).get(b"hubbub.schema_version", b"?").decode()
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{url} has schema version {version}, and this program reads {SCHEMA_VERSION}; "
                "run the recipe again to rebuild it, or read it with the program that made it"
            )
        return reader

    def read(self, snapshot: Snapshot | None = None) -> pa.Table:
        """Return the rows of a snapshot (the newest by default) as one table."""
        snapshot = snapshot or self.latest()
        if snapshot is None:
            raise InputError(f"there is no data set at {self.url()}")
        tables = [self.open(receipt).read_all() for receipt in snapshot.receipts]
        return pa.concat_tables(tables)

    def batches(self, receipt: Receipt) -> Iterator[pa.Table]:
        """Yield a partition's record batches, as tables."""
        reader = self.open(receipt)
        for index in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(index)])

    def metadata(self, receipt: Receipt) -> dict[str, str]:
        """Return the metadata in the file's schema."""
        return {k.decode(): v.decode() for k, v in (self.open(receipt).schema.metadata or {}).items()}

    def verify(self, snapshot: Snapshot) -> list[str]:
        """Return what is wrong with the files of a snapshot; empty if they are intact."""
        faults = [fault for receipt in snapshot.receipts if (fault := self.fault(receipt))]
        root = merkle_root((r.partition_id, r.content_digest) for r in snapshot.receipts)
        if root != snapshot.merkle_root:
            faults.append(f"{self.name}: the Merkle root does not match the receipts")
        return faults

    def fault(self, receipt: Receipt) -> str:
        """Return what is wrong with a partition's rows, read whole; empty if they are intact."""
        url = self.rows_url(receipt)
        if not storage.exists(url):
            return f"{url} is missing"
        intact = storage.digest_of(url) == (receipt.num_bytes, receipt.content_digest)
        return "" if intact else f"{url} is not what was committed"

    def archive(self, snapshot: Snapshot, folder: str) -> int:
        """Write a snapshot's partitions as Parquet to a folder or URL; return their size in bytes.

        A record batch becomes a row group, so that `restore` brings back every byte.
        """
        total = 0
        for receipt in snapshot.receipts:
            reader = self.open(receipt)
            url = storage.join(folder, self.name, f"{receipt.partition_id}-{receipt.key}.parquet")
            with storage.scratch_file(near=url) as scratch:
                with pq.ParquetWriter(
                    scratch, reader.schema, compression="zstd", use_compliant_nested_type=False
                ) as writer:
                    for index in range(reader.num_record_batches):
                        batch = reader.get_batch(index)
                        writer.write_batch(batch, row_group_size=batch.num_rows)
                total += scratch.stat().st_size
                storage.put_file(scratch, url)
        storage.put_bytes(sealed(to_jsonable(snapshot)), storage.join(folder, self.name, "snapshot.json"))
        return total

    def restore(self, folder: str) -> Snapshot:
        """Bring a data set back from its Parquet archive, checked against the digests that were committed.

        Raises:
            InputError: there is no archive, or its contents are not what was committed.
        """
        snapshot_url = storage.join(folder, self.name, "snapshot.json")
        text = storage.read_bytes(snapshot_url)
        if text is None:
            raise InputError(f"there is no archive of {self.name} in {folder}")
        snapshot = _read_back(Snapshot.from_json, text, snapshot_url, "archive it again")
        for receipt in snapshot.receipts:
            url = storage.join(folder, self.name, f"{receipt.partition_id}-{receipt.key}.parquet")
            with storage.scratch_file(near=self.rows_url(receipt)) as scratch:
                check_url(url)
                try:
                    with fsspec.open(url, "rb") as source, pq.ParquetFile(source) as archived:
                        schema = archived.schema_arrow
                        with pa.ipc.new_file(str(scratch), schema) as writer:
                            for index in range(archived.num_row_groups):
                                writer.write_table(archived.read_row_group(index).cast(schema).combine_chunks())
                except FileNotFoundError as error:
                    raise InputError(f"{url} is missing: the archive is not whole; archive it again") from error
                except (OSError, pa.ArrowException) as error:
                    raise InputError(f"{url} is damaged ({str(error).splitlines()[0]}); archive it again") from error
                if digest_file(scratch) != receipt.content_digest:
                    raise InputError(f"{url} does not bring back what was committed; it was altered")
                storage.put_file(scratch, self.rows_url(receipt))
            storage.put_bytes(sealed(to_jsonable(receipt)), self.receipt_url(receipt))
        return self.snapshot(snapshot.receipts, snapshot.inputs, snapshot.made_by)


def _read_back(read: Callable[[Mapping[str, Any]], Any], data: bytes, url: str, remedy: str) -> Any:
    """Return what a receipt's or snapshot's file holds.

    Raises:
        InputError: it is damaged.
    """
    value = unsealed(data, url, remedy)
    try:
        return read(value)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{url} is damaged: it is not what was written ({error}); {remedy}") from error


def stale_reason(partition: Partition, before: Receipt | None) -> str:
    """Return in a few words why a partition is stale."""
    if before is None:
        return "new"
    return changes(before.depends, partition.depends) or "other rows"


def changes(old: Any, new: Any) -> str:
    """Return in a few words how what two partitions depend on differs; empty where it does not.

    >>> changes({"train": {"lr": 0.1}}, {"train": {"lr": 0.2}})
    'train.lr 0.1 -> 0.2'
    """
    reasons = list(dict.fromkeys(_differences(old, to_jsonable(new))))
    return "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        short = [canonical_json(value) for value in (old, new)]
        if path.startswith(
            ("codes", "conversations", "features", "packs")
        ):  # keys of partitions upstream: digits tell nothing
            yield f"{path.partition('.')[0]} upstream"
        elif path == "checkpoint.training":
            yield "training upstream"
        elif all(len(text) <= 40 for text in short):
            yield f"{path} {short[0]} -> {short[1]}"
        else:
            yield f"{path} changed"
