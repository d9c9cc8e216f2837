"""Nothing damaged is used in silence, nothing kills the process, and no id leads elsewhere."""

import json
import os
import stat
from pathlib import Path

import pyarrow as pa
import pytest

from models.config.intact import VARIABLE, sealed
from operators.errors import InputError
from operators.store import storage
from operators.store.cache import Cache
from operators.store.dataset import Dataset, Partition
from operators.store.names import file_name, plain_name
from operators.store.shards import PackShards
from tests.fuzz import outcome_of

SCHEMA = pa.schema([("text", pa.list_(pa.string()))])
ESCAPES = ("../x", "/x", "a/b", "a\0b", "", "x" * 300, "..", "a..b")


@pytest.fixture
def written(tmp_path):
    dataset = Dataset(str(tmp_path / "data"), "packs")
    table = pa.table({"text": [["some words", "and more"]] * 50}, schema=SCHEMA)
    partition = Partition(partition_id="train-0", row_ids=(), depends={})
    receipt = dataset.commit(partition, SCHEMA, {}, lambda writer: writer.write(table))
    return dataset, dataset.snapshot([receipt], {}, {}), Path(dataset.rows_url(receipt)), partition


def flip(path, place, bit=0):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.parametrize("read", ["open", "read", "batches", "metadata", "archive"])
def test_a_flipped_bit_is_found_before_use_whatever_reads(written, tmp_path, read):
    dataset, snapshot, path, _ = written
    dataset.read()  # it was checked before it was damaged
    flip(path, path.stat().st_size // 2)
    ways = {
        "read": dataset.read,
        "archive": lambda: dataset.archive(snapshot, str(tmp_path / "archive")),
        **{name: lambda name=name: list(getattr(dataset, name)(snapshot.receipts[0])) for name in ("open", "batches")},
        "metadata": lambda: dataset.metadata(snapshot.receipts[0]),
    }
    with pytest.raises(InputError, match=r"damaged: its bytes .* --repair") as caught:
        ways[read]()
    assert str(path) in str(caught.value)


def test_training_names_a_damaged_shard_or_leaves_it_out(written):
    dataset, snapshot, path, _ = written
    flip(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match="on-bad-shard skip"):
        PackShards(dataset, snapshot)
    with pytest.raises(InputError, match="holds no packs"):
        PackShards(dataset, snapshot, "skip")


@pytest.mark.parametrize("mode", ["full", "off"])
def test_offsets_that_point_outside_of_the_file_never_kill_the_process(written, monkeypatch, mode):
    dataset, snapshot, path, _ = written
    monkeypatch.setenv(VARIABLE, mode)
    whole = pa.memory_map(str(path)).read_buffer()
    offsets = pa.ipc.open_file(pa.py_buffer(whole)).get_batch(0).column("text").values.buffers()[1]
    flip(path, offsets.address - whole.address + 4 * 7 + 3, 6)

    def case():
        try:
            dataset.open(snapshot.receipts[0]).read_all().to_pylist()
        except InputError:
            return "clear"
        return "silent"

    assert outcome_of(case) == "clear"


def test_the_variable_of_integrity_knows_its_values(written, monkeypatch):
    monkeypatch.setenv(VARIABLE, "some")
    with pytest.raises(InputError, match="full, sampled, off"):
        written[0].read()


BROKEN = [b"", b"null", b"[]", b"{}", b"\xff\xfe", b'{"partition_id": "train-0"', b'{"number": 1}']


@pytest.mark.parametrize("data", BROKEN)
@pytest.mark.parametrize("which", ["receipt", "snapshot"])
def test_a_receipt_or_snapshot_that_was_emptied_or_cut_is_named_with_the_way_out(written, which, data):
    dataset, _, path, partition = written
    damaged = path.with_suffix(".json") if which == "receipt" else Path(dataset.url("snapshots", "000001.json"))
    damaged.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged: .*; remove .* and run again") as caught:
        dataset.committed(partition) if which == "receipt" else dataset.latest()
    assert str(damaged) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_number_in_a_receipt_is_found(written):
    dataset, _, path, partition = written
    receipt = path.with_suffix(".json")
    receipt.write_text(receipt.read_text().replace('"num_rows": 50', '"num_rows": 51'))
    with pytest.raises(InputError, match="its content is not what was written"):
        dataset.committed(partition)


def test_receipts_of_earlier_versions_are_read(written):
    dataset, snapshot, path, partition = written
    receipt = path.with_suffix(".json")
    data = json.loads(receipt.read_text())
    data.pop("content_seal")
    receipt.write_text(json.dumps(data))
    assert dataset.committed(partition) == snapshot.receipts[0]


@pytest.mark.parametrize("where", ["partition_id", "key"])
@pytest.mark.parametrize("name", ESCAPES)
def test_restore_refuses_ids_that_are_no_file_names_before_it_writes(written, tmp_path, where, name):
    dataset, snapshot, _, _ = written
    dataset.archive(snapshot, str(tmp_path / "archive"))
    file = tmp_path / "archive/packs/snapshot.json"
    data = json.loads(file.read_text())
    data.pop("content_seal")
    data["receipts"][0][where] = name
    file.write_bytes(sealed(data))
    target = tmp_path / "a/b/c"
    with pytest.raises(InputError, match="cannot be a file name"):
        Dataset(str(target), "packs").restore(str(tmp_path / "archive"))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ESCAPES)
def test_an_id_becomes_a_file_name_in_the_folder_or_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="cannot be a file name"):
        plain_name(name, "id")
    path = tmp_path / file_name(name)
    path.write_text("x")
    assert path.resolve().parent == tmp_path.resolve()


def test_file_names_of_other_ids_are_other_ones():
    ids = [*ESCAPES, "%2E.%2Fx", "x" * 299, "x" * 299 + "y", "%", "a%2Fb"]
    assert len({file_name(one) for one in ids}) == len(ids)


def test_a_cache_that_others_can_write_to_is_refused(tmp_path):
    theirs = tmp_path / "cache"
    theirs.mkdir()
    theirs.chmod(0o777)
    with pytest.raises(InputError, match="can be written by others"):
        Cache(theirs, 10**9).source("memory://x/a.wav")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="is a symbolic link"):
        Cache(tmp_path / "link", 10**9).source("memory://x/a.wav")


def test_a_cached_recording_is_held_against_what_was_downloaded(tmp_path, monkeypatch):
    kept = {"memory://x/a.wav": b"sound"}
    monkeypatch.setattr(storage, "download", lambda url, target: target.write_bytes(kept[url]))
    cache = Cache(tmp_path / "cache", 10**9)
    path = cache.source("memory://x/a.wav")
    assert stat.S_IMODE(os.stat(cache.folder).st_mode) == 0o700
    path.write_bytes(b"pause")
    assert cache.source("memory://x/a.wav").read_bytes() == b"sound"


def test_the_default_cache_is_the_users_own(monkeypatch):
    monkeypatch.delenv("HUBBUB_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/somebody/.cache")
    assert Cache.default().folder == Path("/home/somebody/.cache/hubbub")


def test_temporary_folders_are_private():
    with storage.scratch_file(near="s3://bucket/x") as scratch:
        assert stat.S_IMODE(scratch.parent.stat().st_mode) == 0o700
    assert not scratch.parent.exists()
