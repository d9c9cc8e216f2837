"""The same promises on a local disk and on object storage."""

import os
import socket

import pyarrow as pa
import pytest

from operators.digest import digest_file
from operators.store import storage
from operators.store.dataset import Dataset, Partition
from tests.operators.s3 import s3_environment


@pytest.fixture(scope="module")
def mock_s3():
    """A mock S3: fast, and as strict about conditional puts as the real one."""
    moto_server = pytest.importorskip("moto.server", reason="moto is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=port)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture(scope="module")
def real_s3():
    """Ceph's S3, where `tests/servers.sh` started it."""
    if "HUBBUB_TEST_S3" not in os.environ:
        pytest.skip("no real S3 server (make test-slow starts one)")
    return os.environ["HUBBUB_TEST_S3"]


@pytest.fixture(params=["local", "mock_s3", pytest.param("real_s3", marks=pytest.mark.slow)])
def root(request, tmp_path, monkeypatch):
    if request.param == "local":
        return str(tmp_path / "root")
    return s3_environment(monkeypatch, request.getfixturevalue(request.param))


def test_what_is_there_is_never_overwritten(root, tmp_path):
    url = storage.join(root, "a/b.bin")
    assert storage.read_bytes(url) is None
    assert storage.put_bytes(b"first", url)
    assert not storage.put_bytes(b"second", url)
    late = tmp_path / "late"
    late.write_bytes(b"third")
    assert not storage.put_file(late, url)
    assert storage.read_bytes(url) == b"first"
    assert storage.exists(url)
    assert storage.list_names(storage.join(root, "a")) == ["b.bin"]
    assert storage.list_names(storage.join(root, "none")) == []


def test_files_arrive_whole(root, tmp_path):
    big = tmp_path / "big"
    big.write_bytes(bytes(range(256)) * 4096)
    url = storage.join(root, "big.bin")
    assert storage.put_file(big, url)
    storage.download(url, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == bytes(range(256)) * 4096
    assert storage.digest_of(url) == (256 * 4096, digest_file(big if big.exists() else tmp_path / "copy"))


def test_state_may_be_replaced(root):
    url = storage.join(root, "state.json")
    storage.replace_bytes(b"1", url)
    storage.replace_bytes(b"2", url)
    assert storage.read_bytes(url) == b"2"


def test_data_sets_are_committed_and_read_anywhere(root):
    dataset = Dataset(root, "numbers")
    schema = pa.schema([("n", pa.int64())])
    partitions = [Partition(partition_id=f"p-{i}", row_ids=(), depends={"i": i}) for i in range(3)]
    receipts = [
        dataset.commit(p, schema, {}, lambda writer, i=i: writer.write(pa.table({"n": [i]}, schema=schema)))
        for i, p in enumerate(partitions)
    ]
    snapshot = dataset.snapshot(receipts, {"up": "root"}, {})
    assert dataset.latest() == snapshot
    assert dataset.read()["n"].to_pylist() == [0, 1, 2]
    assert dataset.verify(snapshot) == []
    assert dataset.committed_names() == {f"{p.partition_id}-{p.key}" for p in partitions}
    assert dataset.commit(partitions[0], schema, {}, lambda _: None) == receipts[0]
