"""The same promises on a local disk and on object storage."""

import socket
import uuid

import pytest

from operators import storage


@pytest.fixture(scope="module")
def s3_server():
    """A mock S3; a real one is tried by `make test-slow`."""
    moto_server = pytest.importorskip("moto.server", reason="moto is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=port)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path, monkeypatch):
    if request.param == "local":
        return str(tmp_path / "root")
    import fsspec

    endpoint = request.getfixturevalue("s3_server")
    values = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "hub", "AWS_SECRET_ACCESS_KEY": "hubsecret"}
    for name, value in {**values, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    bucket = f"hub-{uuid.uuid4().hex[:8]}"
    fsspec.filesystem("s3", endpoint_url=endpoint).mkdir(bucket)
    return f"s3://{bucket}/root"


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
    copy = storage.local_copy(url, cache=tmp_path / "cache")
    assert copy.read_bytes() == bytes(range(256)) * 4096


def test_state_may_be_replaced(root):
    url = storage.join(root, "state.json")
    storage.replace_bytes(b"1", url)
    storage.replace_bytes(b"2", url)
    assert storage.read_bytes(url) == b"2"
