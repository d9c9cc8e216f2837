"""Remote shards on the local disk: content-addressed, checked on arrival and before use, bounded, the user's own.

A killed download leaves nothing. Nothing here is ever the only copy of anything: the folder may be removed at any time.
"""

import contextlib
import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from models.config.folders import cache_folder
from models.config.intact import check_file, sealed, unsealed
from models.config.secrets import masked
from operators.digest import digest, digest_file
from operators.errors import InputError
from operators.store import storage

_STALE_S = 3600.0
_TRIES = 4
_GAP_BYTES = 1 << 16
"""Between members of a tar that still come by one request: less than a request costs."""
_RUN_BYTES = 1 << 24
_REQUESTS = 8
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cache:
    """A folder of at most `max_bytes`, shared by all processes of a machine; the least recently used go first."""

    folder: Path
    max_bytes: int

    @staticmethod
    def default() -> "Cache":
        """Return the cache that the environment names: HUBBUB_CACHE (a folder) and HUBBUB_CACHE_GB (100).

        The default folder is below the user's own: XDG_CACHE_HOME, or ~/.cache.
        """
        size = os.environ.get("HUBBUB_CACHE_GB", "100")
        try:
            return Cache(cache_folder(), int(float(size) * 1e9))
        except ValueError as error:
            raise InputError(f"HUBBUB_CACHE_GB must be a number, not {size!r}") from error

    def fetch(self, url: str, num_bytes: int, content_digest: str) -> Path:
        """Return a path that can be memory-mapped: the file itself where it is local, else its checked copy.

        Raises:
            InputError: it is missing, or its bytes are not those that were committed, here or on the server.
        """
        if storage.is_local(url):
            check_file(Path(url), num_bytes, content_digest, damaged_remedy(url))
            return Path(url)
        target = self.folder / content_digest[:2] / content_digest
        with self._alone(target):
            if self._is_intact(target, num_bytes, content_digest):
                return target
            self._make_room(num_bytes)
            self._download(url, target, content_digest)
        return target

    def source(self, url: str, start: int = 0, length: int = 0) -> Path:
        """Return a local copy of a recording on object storage: of a member of a tar by its byte range, or the whole.

        Raises:
            OSError: it is missing, shorter, or the server refuses.
        """
        target = self._place(url, start, length)
        with self._alone(target):
            if self._is_kept(target):
                return target
            with self._staged(target) as staged:
                if length:
                    data = storage.read_range(url, start, length)
                    if len(data) != length:
                        raise OSError(f"{url} ends {length - len(data)} bytes before its member at {start} does")
                    staged.write_bytes(data)
                else:
                    storage.download(url, staged)
                self._make_room(staged.stat().st_size)
        return target

    def warm(self, sources: Iterable[tuple[str, int, int]]) -> None:
        """Fetch recordings that are about to be read (URL, first byte, bytes; 0 bytes are a whole object).

        They are asked for by shard and offset: neighbors in a tar come by one request, and several requests are under
        way at once. Errors are left to `source`, which reports them.
        """
        missing = sorted({one for one in sources if not self._place(*one).exists()})
        runs: list[list[tuple[str, int, int]]] = []
        for url, start, length in missing:
            if runs and length and runs[-1][-1][0] == url and runs[-1][-1][2]:
                begin, (_, last, size) = runs[-1][0][1], runs[-1][-1]
                if start - last - size <= _GAP_BYTES and start + length - begin <= _RUN_BYTES:
                    runs[-1].append((url, start, length))
                    continue
            runs.append([(url, start, length)])
        if runs:
            with ThreadPoolExecutor(_REQUESTS, thread_name_prefix="warm") as pool:
                for _ in pool.map(self._warm_run, runs):
                    pass

    def _warm_run(self, run: list[tuple[str, int, int]]) -> None:
        """Fetch adjacent spans of one object by one request."""
        (url, begin, length), (_, last, size) = run[0], run[-1]
        with contextlib.suppress(OSError):
            if not length:
                self.source(url)
                return
            data = storage.read_range(url, begin, last + size - begin)
            self._make_room(sum(length for _, _, length in run))
            for _, start, length in run:
                member = data[start - begin : start - begin + length]
                target = self._place(url, start, length)
                with self._alone(target):
                    if len(member) == length and not target.exists():
                        with self._staged(target) as staged:
                            staged.write_bytes(member)

    def _place(self, url: str, start: int, length: int) -> Path:
        name = digest({"source": url, "start": start, "length": length})
        return self.folder / name[:2] / f"{name}{Path(url).suffix if not length else ''}"

    @contextlib.contextmanager
    def _staged(self, target: Path) -> Iterator[Path]:
        """Give a path for a file in the making, which is in its place when the block ends, and gone when it fails.

        Its size and digest are kept beside it: they are what later uses are held against.
        """
        staged = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            yield staged
            size, content = staged.stat().st_size, digest_file(staged)
            storage.replace_bytes(sealed({"num_bytes": size, "content_digest": content}), str(_sums(target)))
            os.replace(staged, target)
        finally:
            staged.unlink(missing_ok=True)

    def _is_kept(self, target: Path) -> bool:
        """Return whether a recording is here, as it was downloaded."""
        try:
            kept = unsealed(_sums(target).read_bytes(), str(target), "it is fetched again")
            return self._is_intact(target, kept["num_bytes"], kept["content_digest"])
        except (OSError, InputError, KeyError):
            return False

    @staticmethod
    def _is_intact(target: Path, num_bytes: int, content_digest: str) -> bool:
        """Return whether a copy is here, with the bytes that it must have; what is damaged is removed."""
        if not target.exists():
            return False
        try:
            check_file(target, num_bytes, content_digest, "it is fetched again")
        except InputError as error:
            _LOG.warning("%s", error)
            target.unlink(missing_ok=True)
            return False
        os.utime(target, ns=(time.time_ns(), target.stat().st_mtime_ns))  # as the access time: see `_make_room`
        return True

    def _download(self, url: str, target: Path, content_digest: str) -> None:
        staged = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}")
        fault = ""
        try:
            for attempt in range(_TRIES):
                if attempt:
                    time.sleep(0.2 * 4**attempt * (0.5 + int.from_bytes(os.urandom(1)) / 255))
                    _LOG.warning("%s", masked(f"{url}: {fault}; trying again"))
                try:
                    storage.download(url, staged)
                except FileNotFoundError as error:
                    raise InputError(f"{url} is missing; {damaged_remedy(url)}") from error
                except OSError as error:
                    fault = f"{type(error).__name__}: {error}"
                    continue
                if digest_file(staged) == content_digest:
                    os.replace(staged, target)
                    return
                fault = "arrived with other bytes than were committed"
        finally:
            staged.unlink(missing_ok=True)
        raise InputError(f"{url}: {fault}, {_TRIES} times; {damaged_remedy(url)}")

    @contextlib.contextmanager
    def _alone(self, target: Path) -> Iterator[None]:
        """Hold a file's lock, so that the processes of a machine download it once; a killed holder frees it.

        Raises:
            InputError: the cache is another user's, or others can write to it.
        """
        _make_private(self.folder)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        with open(target.with_name(f".{target.name}.lock"), "a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_room(self, num_bytes: int) -> None:
        """Remove the least recently used until there is room; a file larger than the cache has it to itself."""
        entries = []
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if not path.name.startswith("."):
                    entries.append((status.st_atime, status.st_size, path))
                elif not path.name.endswith((".lock", ".sums")) and time.time() - status.st_mtime > _STALE_S:
                    path.unlink(missing_ok=True)  # what a killed download left
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total + num_bytes <= self.max_bytes:
                return
            path.unlink(missing_ok=True)  # a process that has it mapped keeps it until it unmaps it
            _sums(path).unlink(missing_ok=True)
            total -= size


def damaged_remedy(url: str) -> str:
    """Return the way out where a partition's rows are missing or damaged."""
    receipt = f"{url.removesuffix('.arrow')}.json"
    return f"remove its receipt {receipt} and run again to rebuild it, or hubbub data verify OUTPUT --repair"


def _sums(target: Path) -> Path:
    """Return the file that holds a recording's size and digest."""
    return target.with_name(f".{target.name}.sums")


def _make_private(folder: Path) -> None:
    """Make a folder that only its user can write to; what others could put there would be believed.

    Raises:
        InputError: it is a link, another user's, or others can write to it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    fault = ""
    if stat.S_ISLNK(status.st_mode):
        fault = "is a symbolic link"
    elif status.st_uid != os.getuid():
        fault = "belongs to another user"
    elif status.st_mode & 0o022:
        fault = "can be written by others"
    if fault:
        raise InputError(f"the cache {folder} {fault}; name a folder of your own with HUBBUB_CACHE (chmod 700)")
