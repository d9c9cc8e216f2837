"""Recordings on object storage: read by byte range, kept on the machine, the same as local ones."""

import dataclasses
import io
import json
import tarfile

import fsspec
import numpy as np
import pytest

from operators.corpus.index import index_utterances
from operators.corpus.manifest import Manifest
from operators.corpus.sources import read_source
from operators.errors import UnusableRowError
from operators.store import storage
from operators.store.cache import Cache
from tests.conftest import write_corpus


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A corpus as it is, as single objects, and as members of one tar."""
    monkeypatch.setenv("HUBBUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HUBBUB_ALLOW_URLS", "memory://")
    local = write_corpus(tmp_path / "corpus", num_speakers=2)
    rows = [json.loads(line) for line in local.read_text().splitlines()]
    root = f"memory://{tmp_path.name}"
    filesystem = fsspec.filesystem("memory")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for row in rows:
            tar.add(local.parent / row["audio"], row["audio"])
    filesystem.pipe_file(f"/{tmp_path.name}/shard.tar", data.getvalue())
    data.seek(0)
    with tarfile.open(fileobj=data) as tar:
        members = {member.name: member for member in tar}
    single, packed = [], []
    for row in rows:
        filesystem.pipe_file(f"/{tmp_path.name}/{row['audio']}", (local.parent / row["audio"]).read_bytes())
        single.append({**row, "audio": f"{root}/{row['audio']}"})
        member = members[row["audio"]]
        span = {"byte_offset": member.offset_data, "byte_length": member.size}
        packed.append({**row, "audio": f"{root}/shard.tar", **span})
    manifests = {}
    for name, listed in (("local", rows), ("single", single), ("packed", packed)):
        path = local if name == "local" else tmp_path / name / "manifest.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in listed))
        manifests[name] = Manifest(path=path)
    return manifests


@pytest.mark.parametrize("kind", ["single", "packed"])
def test_what_is_read_is_what_lies_here(remote, kind, tmp_path, monkeypatch):
    here, bad = index_utterances([remote["local"]])
    there, worse = index_utterances([remote[kind]])
    assert not bad
    assert not worse
    same = ("utterance_id", "source_num_samples", "source_rate_hz", "fingerprint", "text_normalized")
    assert here.select(same).equals(there.select(same))
    roots = dict.fromkeys(set(here["corpus"].to_pylist()), remote["local"].root)
    for one, other in zip(here.to_pylist(), there.to_pylist(), strict=True):
        assert np.array_equal(read_source(one, roots), read_source(other, {}))
    # The second time nothing is asked of the server.
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)
    read_source(there.to_pylist()[0], {})


def test_neighbors_in_a_shard_come_by_one_request(remote, monkeypatch):
    there, _ = index_utterances([remote["packed"]])
    monkeypatch.setenv("HUBBUB_CACHE", str(Cache.default().folder.parent / "another"))
    asked = []
    read = storage.read_range

    def counted(url, start, length):
        asked.append((url, start, length))
        return read(url, start, length)

    monkeypatch.setattr(storage, "read_range", counted)
    spans = [(row["audio"], row["byte_offset"], row["byte_length"]) for row in there.to_pylist()]
    nowhere = (spans[0][0] + "x", 0, 10), (spans[0][0], 10**9, 10)
    Cache.default().warm([*reversed(spans), *nowhere])
    assert len(asked) == 3
    here, _ = index_utterances([remote["local"]])
    roots = {here["corpus"][0].as_py(): remote["local"].root}
    for one, other in zip(here.to_pylist(), there.to_pylist(), strict=True):
        assert np.array_equal(read_source(one, roots), read_source(other, {}))
    assert len(asked) == 3
    with pytest.raises(UnusableRowError, match="cannot be read"):
        read_source({**there.to_pylist()[0], "byte_offset": 10**9}, {})


def test_the_copies_are_bounded(remote, tmp_path):
    there, _ = index_utterances([remote["packed"]])
    rows = there.to_pylist()
    small = dataclasses.replace(Cache.default(), folder=tmp_path / "small", max_bytes=rows[-1]["byte_length"] + 1)
    for row in rows:
        small.source(row["audio"], row["byte_offset"], row["byte_length"])
        kept = [path for path in (tmp_path / "small").glob("??/*") if not path.name.startswith(".")]
        assert sum(path.stat().st_size for path in kept) <= small.max_bytes


def test_what_is_gone_or_short_is_quarantined_with_the_reason(remote, tmp_path):
    manifest = remote["packed"].path
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[0]["byte_length"] = 10**9
    rows[1]["audio"] = f"memory://{tmp_path.name}/nothing.tar"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table, bad = index_utterances([remote["packed"]])
    assert table.num_rows == len(rows) - 2
    assert {one.row_id for one in bad} == {rows[0]["id"], rows[1]["id"]}
    assert all("unreadable or truncated audio memory://" in one.reason for one in bad)
