"""Files on any fsspec URL, written once: a name appears whole or not at all, and is never overwritten.

Local files appear by an exclusive hard link, objects by a conditional put (`If-None-Match: *`).
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec

from operators.digest import digest_file
from operators.errors import InputError
from operators.store.remote import OBJECT_STORES, StorageError, check_url, errors_explained, explained

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):(/*)")


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


@contextlib.contextmanager
def _remote(url: str) -> Iterator[tuple[Any, str]]:
    """Give the client and the path of a URL that may be opened; its errors say what to do.

    Raises:
        RefusedURLError: the URL may not be opened.
        StorageError: the server refused, or did not answer.
    """
    check_url(url)
    with errors_explained(url):
        yield fsspec.core.url_to_fs(url)


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
    with _remote(url) as (filesystem, path):
        return _created(lambda: filesystem.put_file(str(local), path, mode="create"))


def put_bytes(data: bytes, url: str) -> bool:
    """Publish bytes at `url`; return False where a file exists there."""
    if is_local(url):
        Path(url).parent.mkdir(parents=True, exist_ok=True)
        with scratch_file(near=url) as scratch:
            scratch.write_bytes(data)
            return put_file(scratch, url)
    with _remote(url) as (filesystem, path):
        return _created(lambda: filesystem.pipe_file(path, data, mode="create"))


def replace_bytes(data: bytes, url: str) -> None:
    """Write a file that may change (state of a run, never a data set), whole or not at all."""
    if is_local(url):
        target = Path(url)
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.parent / f".{target.name}.{os.getpid()}"
        try:
            with open(staged, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, target)
        finally:
            staged.unlink(missing_ok=True)
        return
    with _remote(url) as (filesystem, path):
        filesystem.pipe_file(path, data)


def read_bytes(url: str) -> bytes | None:
    """Return a file's bytes, or None where there is no such file."""
    try:
        if is_local(url):
            return Path(url).read_bytes()
        with _remote(url) as (filesystem, path):
            data: bytes = filesystem.cat_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return data


def remove(url: str) -> None:
    """Remove a file; nothing to do where there is none."""
    if is_local(url):
        Path(url).unlink(missing_ok=True)
        return
    with _remote(url) as (filesystem, path):
        if filesystem.exists(path):
            filesystem.rm_file(path)


def modified_at(url: str) -> float:
    """Return when a file was written, in seconds since 1970."""
    if is_local(url):
        return Path(url).stat().st_mtime
    with _remote(url) as (filesystem, path):
        return float(filesystem.modified(path).timestamp())


def exists(url: str) -> bool:
    """Return whether a file exists."""
    if is_local(url):
        return Path(url).exists()
    with _remote(url) as (filesystem, path):
        return bool(filesystem.exists(path))


def list_names(url: str) -> list[str]:
    """Return the sorted names in a folder; none where there is no such folder."""
    try:
        if is_local(url):
            return sorted(name for name in os.listdir(url) if not name.startswith("."))
        with _remote(url) as (filesystem, path):
            names = sorted(entry.rsplit("/", 1)[-1] for entry in filesystem.ls(path, detail=False, refresh=True))
            # s3fs would hold what it has listed against every later read: what others commit would be missing.
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
    with _remote(url) as (filesystem, path):
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
    with _remote(url) as (filesystem, path):
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


def check_store(url: str) -> None:
    """Check a store before any work: its scheme, a write, that a second write is refused, and a read.

    Raises:
        InputError: names what is wrong with the URL, the server or the keys.
    """
    slashes = _SCHEME.match(url)
    if slashes and len(slashes[2]) < 2 and len(slashes[1]) > 1:
        raise InputError(f"--store {url}: slashes are missing; {slashes[1]}://{url[slashes.end() :]}")
    if is_local(url):
        return
    probe, data = join(url, ".hubbub-probe"), b"hubbub\n"
    try:
        put_bytes(data, probe)
        if put_bytes(data, probe):
            raise InputError(
                f"--store {url}: the server overwrites where it was told not to (If-None-Match), so two runs could "
                "destroy each other's results; take a server that knows conditional writes"
            )
        if read_bytes(probe) != data:
            raise InputError(f"--store {url}: what was written there cannot be read back")
    except FileNotFoundError as error:
        raise InputError(f"--store {url}: {explained(error, url)}") from error
    except ImportError as error:
        raise InputError(
            f"--store {url} needs a package: pip install {OBJECT_STORES.get(url.partition(':')[0])}"
        ) from error
    except StorageError as error:
        raise InputError(f"--store: {error}") from error
