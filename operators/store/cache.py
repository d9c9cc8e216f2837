"""Remote shards on the local disk: content-addressed, checked on arrival, bounded; a killed download leaves nothing.

Nothing here is ever the only copy of anything: the folder may be removed at any time.
"""

import contextlib
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from operators.digest import digest, digest_file
from operators.errors import InputError
from operators.secrets import masked
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
        """Return the cache that the environment names: HUBBUB_CACHE (a folder) and HUBBUB_CACHE_GB (100)."""
        folder = os.environ.get("HUBBUB_CACHE") or Path(tempfile.gettempdir()) / f"hubbub-cache-{os.getuid()}"
        size = os.environ.get("HUBBUB_CACHE_GB", "100")
        try:
            return Cache(Path(folder), int(float(size) * 1e9))
        except ValueError as error:
            raise InputError(f"HUBBUB_CACHE_GB must be a number, not {size!r}") from error

    def fetch(self, url: str, num_bytes: int, content_digest: str) -> Path:
        """Return a path that can be memory-mapped: the file itself where it is local, else its checked copy.

        Raises:
            InputError: it is missing, shorter or longer than was committed, or was altered on the server.
        """
        if storage.is_local(url):
            return self._local(url, num_bytes)
        target = self.folder / content_digest[:2] / content_digest
        with self._alone(target):
            if target.exists() and target.stat().st_size == num_bytes:
                os.utime(target)
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
            if target.exists():
                os.utime(target)
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
        """Give a path for a file in the making, which is in its place when the block ends, and gone when it fails."""
        staged = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            yield staged
            os.replace(staged, target)
        finally:
            staged.unlink(missing_ok=True)

    @staticmethod
    def _local(url: str, num_bytes: int) -> Path:
        path = Path(url)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise InputError(f"{url} is missing; {_remedy(url)}") from error
        if size != num_bytes:
            raise InputError(f"{url} has {size} bytes, but {num_bytes} were committed; {_remedy(url)}")
        return path

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
                    raise InputError(f"{url} is missing; {_remedy(url)}") from error
                except OSError as error:
                    fault = f"{type(error).__name__}: {error}"
                    continue
                if digest_file(staged) == content_digest:
                    os.replace(staged, target)
                    return
                fault = "arrived with other bytes than were committed"
        finally:
            staged.unlink(missing_ok=True)
        raise InputError(f"{url}: {fault}, {_TRIES} times; {_remedy(url)}")

    @contextlib.contextmanager
    def _alone(self, target: Path) -> Iterator[None]:
        """Hold a file's lock, so that the processes of a machine download it once; a killed holder frees it."""
        target.parent.mkdir(parents=True, exist_ok=True)
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
                    entries.append((status.st_mtime, status.st_size, path))
                elif not path.name.endswith(".lock") and time.time() - status.st_mtime > _STALE_S:
                    path.unlink(missing_ok=True)  # what a killed download left
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total + num_bytes <= self.max_bytes:
                return
            path.unlink(missing_ok=True)  # a process that has it mapped keeps it until it unmaps it
            total -= size


def _remedy(url: str) -> str:
    return f"remove its receipt {url.removesuffix('.arrow')}.json and run again to rebuild it"
