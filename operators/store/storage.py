"""Files on any fsspec URL, written once: a name appears whole or not at all, and is never overwritten.

Local files appear by an exclusive hard link, objects by a conditional put (`If-None-Match: *`).
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec

from operators.digest import digest_file


def is_local(url: str) -> bool:
    """Return whether a URL is a path on this machine.

    >>> is_local("/data/runs"), is_local("s3://bucket/runs")
    (True, False)
    """
    return "://" not in url


def join(url: str, *parts: str) -> str:
    """Join path parts, whatever the scheme.

    >>> join("s3://bucket/runs/", "demo", "codes")
    's3://bucket/runs/demo/codes'
    """
    return "/".join([url.rstrip("/"), *parts])


def _remote(url: str) -> tuple[Any, str]:
    filesystem, path = fsspec.core.url_to_fs(url)
    return filesystem, path


def _created(put: Callable[[], None]) -> bool:
    """Return whether a conditional put succeeded; false where the object existed before."""
    try:
        put()
    except FileExistsError:
        return False
    except OSError as error:
        # Ceph answers 412 without a message, which s3fs hands on as "invalid argument".
        answer = getattr(error.__cause__, "response", {}).get("ResponseMetadata", {})
        if answer.get("HTTPStatusCode") == 412:
            return False
        raise
    return True


def put_file(local: Path, url: str) -> bool:
    """Publish a finished local file at `url`; return False where a file exists there."""
    if is_local(url):
        target = Path(url)
        target.parent.mkdir(parents=True, exist_ok=True)
        # The link must be made on the target's own file system, and from bytes that are on the disk.
        staged = target.parent / f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}"
        try:
            try:
                os.rename(local, staged)
            except OSError:
                staged.write_bytes(local.read_bytes())
            with open(staged, "rb+") as file:
                os.fsync(file.fileno())
            try:
                os.link(staged, target)
            except FileExistsError:
                return False
            return True
        finally:
            staged.unlink(missing_ok=True)
    filesystem, path = _remote(url)
    return _created(lambda: filesystem.put_file(str(local), path, mode="create"))


def put_bytes(data: bytes, url: str) -> bool:
    """Publish bytes at `url`; return False where a file exists there."""
    if is_local(url):
        Path(url).parent.mkdir(parents=True, exist_ok=True)
        with scratch_file(near=url) as scratch:
            scratch.write_bytes(data)
            return put_file(scratch, url)
    filesystem, path = _remote(url)
    return _created(lambda: filesystem.pipe_file(path, data, mode="create"))


def replace_bytes(data: bytes, url: str) -> None:
    """Write a file that may change (state of a run, never a data set), whole or not at all."""
    if is_local(url):
        target = Path(url)
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.parent / f".{target.name}.{os.getpid()}"
        with open(staged, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, target)
        return
    filesystem, path = _remote(url)
    filesystem.pipe_file(path, data)


def read_bytes(url: str) -> bytes | None:
    """Return a file's bytes, or None where there is no such file."""
    try:
        if is_local(url):
            return Path(url).read_bytes()
        filesystem, path = _remote(url)
        data: bytes = filesystem.cat_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return data


def remove(url: str) -> None:
    """Remove a file; nothing to do where there is none."""
    if is_local(url):
        Path(url).unlink(missing_ok=True)
        return
    filesystem, path = _remote(url)
    if filesystem.exists(path):
        filesystem.rm_file(path)


def modified_at(url: str) -> float:
    """Return when a file was written, in seconds since 1970."""
    if is_local(url):
        return Path(url).stat().st_mtime
    filesystem, path = _remote(url)
    return float(filesystem.modified(path).timestamp())


def exists(url: str) -> bool:
    """Return whether a file exists."""
    if is_local(url):
        return Path(url).exists()
    filesystem, path = _remote(url)
    return bool(filesystem.exists(path))


def list_names(url: str) -> list[str]:
    """Return the sorted names in a folder; none where there is no such folder."""
    try:
        if is_local(url):
            return sorted(name for name in os.listdir(url) if not name.startswith("."))
        filesystem, path = _remote(url)
        names = sorted(entry.rsplit("/", 1)[-1] for entry in filesystem.ls(path, detail=False, refresh=True))
        # s3fs would hold what it has listed against every later read: what others commit from now on would be missing.
        filesystem.invalidate_cache(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return names


def download(url: str, target: Path) -> None:
    """Copy a remote file to a path of this machine.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the server or the disk refused.
    """
    filesystem, path = _remote(url)
    filesystem.get_file(path, str(target))


def read_range(url: str, start: int, length: int) -> bytes:
    """Return some bytes of a file, by one request where it is remote.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the server or the disk refused.
    """
    if is_local(url):
        with open(url, "rb") as file:
            file.seek(start)
            return file.read(length)
    filesystem, path = _remote(url)
    data: bytes = filesystem.cat_file(path, start=start, end=start + length)
    return data


def digest_of(url: str) -> tuple[int, str]:
    """Return size and digest of a file, wherever it is, without keeping a copy."""
    if is_local(url):
        return Path(url).stat().st_size, digest_file(Path(url))
    with scratch_file(near=url) as scratch:
        download(url, scratch)
        return scratch.stat().st_size, digest_file(scratch)


@contextlib.contextmanager
def scratch_file(near: str) -> Iterator[Path]:
    """Yield a path for a file to be written: next to a local target, else in a private temporary folder."""
    name = f".making-{os.getpid()}-{os.urandom(6).hex()}"
    if not is_local(near):
        with tempfile.TemporaryDirectory(prefix="hubbub-") as private:
            yield Path(private) / name
        return
    folder = Path(near).parent
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
