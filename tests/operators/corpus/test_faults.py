"""What can go wrong between a shard and its reader: servers that refuse, disks that are full, bytes that change."""

import fcntl
import http.client
import multiprocessing
import os
import socket
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from operators.errors import InputError
from operators.schema import PACKS
from operators.store import storage
from operators.store.cache import Cache
from operators.store.dataset import Dataset, Partition, Snapshot
from operators.store.shards import COMPONENT, PackShards
from tests.operators.s3 import s3_environment


class Misbehaving:
    """A server between us and object storage, which answers some requests with 503 or cuts them off."""

    def __init__(self, endpoint):
        self.faults = []  # (method, "503" or "reset"), each used once
        self.used = []
        real = urllib.parse.urlparse(endpoint)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def forward(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else None
                fault = next((f for f in outer.faults if f[0] == self.command and f[2] in self.path), None)
                if fault:
                    outer.faults.remove(fault)
                    outer.used.append(fault)
                if fault and fault[1] == "503":
                    text = b"<Error><Code>SlowDown</Code><Message>reduce your rate</Message></Error>"
                    self.send_response(503)
                    self.send_header("Content-Length", str(len(text)))
                    self.send_header("Content-Type", "application/xml")
                    self.end_headers()
                    self.wfile.write(text)
                    return
                upstream = http.client.HTTPConnection(real.hostname, real.port)
                # The signature covers the host that the client believes in.
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    upstream.putheader(name, value)
                upstream.endheaders(body)
                answer = upstream.getresponse()
                data = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                        self.send_header(name, value)
                given = answer.getheader("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", given or str(len(data)))
                self.end_headers()
                if fault and fault[1] == "reset":
                    self.wfile.write(data[: len(data) // 2])
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                if fault and fault[1] == "flip" and data:
                    data = data[:-1] + bytes([data[-1] ^ 1])
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module", params=["mock", pytest.param("real", marks=pytest.mark.slow)])
def server(request):
    """Object storage behind a server that can be told to fail."""
    mock = None
    if request.param == "mock":
        moto_server = pytest.importorskip("moto.server", reason="moto is not installed")
        mock = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        mock.start()
        host, port = mock.get_host_and_port()
        endpoint = f"http://{host}:{port}"
    else:
        if "HUBBUB_TEST_S3" not in os.environ:
            pytest.skip("no real S3 server (make test-slow starts one)")
        endpoint = os.environ["HUBBUB_TEST_S3"]
    between = Misbehaving(endpoint)
    yield between
    between.server.shutdown()
    if mock:
        mock.stop()


@pytest.fixture
def remote(server, monkeypatch):
    server.faults.clear()
    server.used.clear()
    return s3_environment(monkeypatch, server.url)


def write(root, number=3, packs_each=4):
    """A data set of packs of random tokens, one shard a partition."""
    dataset = Dataset(root, "packs")
    rng = np.random.default_rng(0)
    receipts = []
    for shard in range(number):

        def fill(writer, shard=shard):
            rows = [
                {
                    "pack_id": f"s{shard}p{i}",
                    "num_columns": 8,
                    "sum_squares": 64,
                    "cu_seqlens": [0, 8],
                    "documents": [],
                    "segments": [],
                    "text_tokens": rng.integers(0, 99, 4000),
                    "codes": b"",
                    "loss_spans": [],
                }
                for i in range(packs_each)
            ]
            writer.write(pa.Table.from_pylist(rows, schema=PACKS))
            writer.count(**{f"{COMPONENT}asr": packs_each})

        partition = Partition(partition_id=f"train-asr-{shard:05d}", row_ids=(), depends={"n": shard})
        receipts.append(dataset.commit(partition, PACKS, {}, fill))
    return dataset, dataset.snapshot(receipts, {}, {})


def names(shards):
    return [shards[i].pack_id for i in range(len(shards))]


ALL = [f"s{s}p{i}" for s in range(3) for i in range(4)]


@pytest.mark.parametrize("kind", ["503", "reset", "flip"])
def test_a_server_that_fails_for_a_while_changes_nothing(server, remote, tmp_path, kind, monkeypatch):
    monkeypatch.setenv("HUBBUB_CACHE", str(tmp_path / "cache"))
    if kind == "503":
        server.faults += [("PUT", "503", "-00001-"), ("PUT", "503", "-00002-")]
    dataset, snapshot = write(remote)
    server.faults += [("GET", kind, "-00000-"), ("GET", kind, "-00002-"), ("GET", kind, "-00002-")]
    assert names(PackShards(dataset, snapshot)) == ALL
    assert len(server.used) >= 3
    assert not list((tmp_path / "cache").rglob(".*[!k]"))  # nothing half-way is left, but for locks


def test_a_shard_altered_on_the_server_is_named_and_never_used(server, remote, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    dataset, snapshot = write(remote)
    server.faults += [("GET", "flip", "-00001-")] * 9
    shards = PackShards(dataset, snapshot, cache=Cache(tmp_path / "cache", 10**9))
    monkeypatch.setenv("HUBBUB_CACHE", str(tmp_path / "cache"))
    assert shards[0].pack_id == "s0p0"
    with pytest.raises(InputError, match=r"train-asr-00001-.*other bytes than were committed, 4 times"):
        shards[5]
    assert len([p for p in (tmp_path / "cache").glob("??/*") if not p.name.startswith(".")]) == 1


def test_prefetched_shards_are_there_when_they_are_asked_for(server, remote, tmp_path, monkeypatch):
    monkeypatch.setenv("HUBBUB_CACHE", str(tmp_path / "cache"))
    dataset, snapshot = write(remote)
    shards = PackShards(dataset, snapshot)
    shards.prefetch([0, 9])
    for coming in list(shards._coming.values()):
        coming.result()
    files = [p for p in (tmp_path / "cache").glob("??/*") if not p.name.startswith(".")]
    assert len(files) == 2
    server.faults += [("GET", "503", "-00000-")] * 99  # nothing is fetched again
    assert shards[0].pack_id == "s0p0"
    server.faults.clear()
    assert names(shards) == ALL


def test_the_cache_is_bounded_and_the_oldest_goes_first(server, remote, tmp_path):
    dataset, snapshot = write(remote, number=5)
    size = snapshot.receipts[0].num_bytes
    cache = Cache(tmp_path / "cache", int(2.5 * size))
    for number, receipt in enumerate([*snapshot.receipts, snapshot.receipts[3]]):
        path = cache.fetch(dataset.rows_url(receipt), receipt.num_bytes, receipt.content_digest)
        os.utime(path, (number + 1, number + 1))
        files = [p for p in (tmp_path / "cache").glob("??/*") if not p.name.startswith(".")]
        assert sum(p.stat().st_size for p in files) <= cache.max_bytes
    assert {p.name for p in files} == {snapshot.receipts[i].content_digest for i in (3, 4)}
    alone = Cache(tmp_path / "small", size // 2)  # smaller than a shard: one at a time, and no deadlock
    for receipt in snapshot.receipts[:2]:
        assert alone.fetch(dataset.rows_url(receipt), receipt.num_bytes, receipt.content_digest).exists()


def test_what_a_killed_download_left_is_cleared_and_does_not_count(server, remote, tmp_path):
    dataset, snapshot = write(remote, number=1)
    receipt = snapshot.receipts[0]
    cache = Cache(tmp_path / "cache", 10**9)
    folder = tmp_path / "cache" / receipt.content_digest[:2]
    folder.mkdir(parents=True)
    left = folder / f".{receipt.content_digest}.123.abcd"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    (folder / receipt.content_digest).write_bytes(b"half")  # a copy cut short by a full disk
    path = cache.fetch(dataset.rows_url(receipt), receipt.num_bytes, receipt.content_digest)
    assert path.stat().st_size == receipt.num_bytes
    assert not left.exists()


def test_a_cache_lock_dies_with_its_holder(tmp_path):
    cache = Cache(tmp_path, 10**9)
    target = tmp_path / "ab" / "abc"
    target.parent.mkdir()
    holding, release = multiprocessing.Event(), multiprocessing.Event()

    def hold():
        with cache._alone(target):
            holding.set()
            release.wait(60)

    process = multiprocessing.get_context("fork").Process(target=hold)
    process.start()
    holding.wait(30)
    with open(target.with_name(".abc.lock")) as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    process.kill()
    process.join()
    with cache._alone(target):
        pass


@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_a_bad_local_shard_stops_by_name_or_is_skipped_as_the_policy_says(tmp_path, fault):
    dataset, snapshot = write(str(tmp_path))
    path = dataset.rows_url(snapshot.receipts[1])
    os.chmod(path, 0o644)
    if fault == "missing":
        os.remove(path)
    else:
        os.truncate(path, 1000)
    with pytest.raises(
        InputError,
        match=r"train-asr-00001-.*\.arrow (is missing|is damaged: it has 1000 bytes).*--train.on-bad-shard skip",
    ):
        PackShards(dataset, snapshot)
    shards = PackShards(dataset, snapshot, "skip")
    assert list(shards.skipped) == [path]
    assert names(shards) == [name for name in ALL if not name.startswith("s1")]
    assert shards.digest != PackShards(*write(str(tmp_path / "whole"))).digest  # another stream, and it says so


def test_a_remote_shard_that_is_gone_is_named_before_work_starts(server, remote, tmp_path):
    dataset, snapshot = write(remote)
    with storage._remote(dataset.rows_url(snapshot.receipts[2]).replace(".arrow", ".json")) as (filesystem, path):
        filesystem.rm_file(path)
    with pytest.raises(InputError, match=r"train-asr-00002-.*is missing"):
        PackShards(dataset, snapshot)
    assert len(PackShards(dataset, snapshot, "skip")) == 8


def test_a_shard_of_another_schema_version_is_refused(tmp_path, monkeypatch):
    from operators.store import dataset as module

    monkeypatch.setattr(module, "SCHEMA_VERSION", "1")
    dataset, snapshot = write(str(tmp_path))
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"has schema version 1, and this program reads"):
        PackShards(dataset, snapshot)[0]


def test_a_disk_that_fills_up_in_a_commit_leaves_nothing(tmp_path, monkeypatch):
    import resource

    dataset, _ = write(str(tmp_path), number=1)
    before = sorted(p.name for p in tmp_path.rglob("*"))

    def attempt(queue):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # as a disk with so much room left
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            write(str(tmp_path), number=2)
        except OSError as error:
            queue.put(error.errno)

    queue = multiprocessing.get_context("fork").Queue()
    process = multiprocessing.get_context("fork").Process(target=attempt, args=(queue,))
    process.start()
    assert queue.get(timeout=60) > 0
    process.join()
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    assert dataset.verify(dataset.latest()) == []


def test_an_archive_brings_back_every_byte(tmp_path):
    dataset, snapshot = write(str(tmp_path / "here"))
    dataset.archive(snapshot, str(tmp_path / "archive"))
    there = Dataset(str(tmp_path / "there"), "packs")
    restored = there.restore(str(tmp_path / "archive"))
    assert restored.merkle_root == snapshot.merkle_root
    assert there.verify(restored) == []
    path = next((tmp_path / "archive/packs").glob("*00001*.parquet"))
    data = pq.read_table(path)
    os.chmod(path, 0o644)
    pq.write_table(data.slice(1), path)
    with pytest.raises(InputError, match=r"00001.*altered"):
        Dataset(str(tmp_path / "other"), "packs").restore(str(tmp_path / "archive"))
    assert isinstance(restored, Snapshot)
