"""Checkpoints at any fsspec URL: written to a local disk, copied during training, and fetched where they are needed.

As on a disk, `checkpoint.json` is written last: a folder without it is not a checkpoint.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

_LOOSE = ("metrics.jsonl", "validation.jsonl", "bad_steps.jsonl", "start.json", "device.json", "failure.txt")
"""Files next to the checkpoints."""


@dataclass(frozen=True)
class Mirror:
    """Keeps a training's folder and a URL in step."""

    folder: Path
    url: str

    def _remote(self) -> tuple[Any, str]:
        filesystem, path = fsspec.core.url_to_fs(self.url)
        return filesystem, path.rstrip("/")

    def steps(self) -> list[int]:
        """Return the steps whose checkpoints are complete at the URL, in order."""
        filesystem, path = self._remote()
        filesystem.invalidate_cache()
        found = filesystem.glob(f"{path}/step-*/checkpoint.json")
        filesystem.invalidate_cache()
        return sorted(int(name.rsplit("/", 2)[1][5:]) for name in found)

    def read(self, step: int, name: str) -> bytes:
        """Return a file of a checkpoint at the URL."""
        filesystem, path = self._remote()
        return bytes(filesystem.cat_file(f"{path}/step-{step:06d}/{name}"))

    def beside(self) -> list["Mirror"]:
        """Return the other trainings next to this one at the URL."""
        filesystem, path = self._remote()
        above = path.rpartition("/")[0]
        if not filesystem.exists(above):
            return []
        names = [entry.rstrip("/").rpartition("/")[2] for entry in filesystem.ls(above, detail=False, refresh=True)]
        filesystem.invalidate_cache()  # a cached listing would hide what is written later
        root = self.url.rstrip("/").rpartition("/")[0]
        return [Mirror(self.folder.parent / name, f"{root}/{name}") for name in names if name != self.folder.name]

    def written_at(self, step: int) -> float:
        """Return when a checkpoint was written at the URL, in seconds since 1970."""
        filesystem, path = self._remote()
        return float(filesystem.modified(f"{path}/step-{step:06d}/checkpoint.json").timestamp())

    def fetch(self, steps: Iterable[int]) -> None:
        """Copy checkpoints that are missing here, each whole or not at all."""
        filesystem, path = self._remote()
        for step in steps:
            name = f"step-{step:06d}"
            if (self.folder / name / "checkpoint.json").exists():
                continue
            staged = self.folder / f".{name}-{os.getpid()}"
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir(parents=True)
            try:
                for entry in filesystem.ls(f"{path}/{name}", detail=False):
                    filesystem.get_file(entry, str(staged / entry.rsplit("/", 1)[1]))
                os.rename(staged, self.folder / name)
            except OSError:
                if not (self.folder / name).exists():  # another process on this machine was faster
                    raise
            finally:
                shutil.rmtree(staged, ignore_errors=True)

    def fetch_loose(self) -> None:
        """Copy the files next to the checkpoints here: metrics, and what the training started from."""
        filesystem, path = self._remote()
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in _LOOSE:
            if filesystem.exists(f"{path}/{name}"):
                staged = self.folder / f".{name}-{os.getpid()}"
                filesystem.get_file(f"{path}/{name}", str(staged))
                os.replace(staged, self.folder / name)

    def fetch_newest(self) -> None:
        """Copy everything that is needed to continue, where the URL is ahead of this folder."""
        there = self.steps()
        if there and not (self.folder / f"step-{there[-1]:06d}" / "checkpoint.json").exists():
            self.fetch(there[-1:])
            self.fetch_loose()

    def send_loose(self) -> None:
        """Copy the files next to the checkpoints to the URL."""
        filesystem, path = self._remote()
        for name in _LOOSE:
            if (self.folder / name).exists():
                filesystem.put_file(str(self.folder / name), f"{path}/{name}")

    def forget(self, name: str) -> None:
        """Remove a file next to the checkpoints, here and at the URL."""
        filesystem, path = self._remote()
        (self.folder / name).unlink(missing_ok=True)
        if filesystem.exists(f"{path}/{name}"):
            filesystem.rm_file(f"{path}/{name}")

    def send(self, step: int) -> None:
        """Copy a checkpoint and the curve to the URL.

        Raises:
            OSError: the server refuses; training's own copy stays.
        """
        folder = self.folder / f"step-{step:06d}"
        self.send_loose()
        self.send_files(folder, step, sorted((one.name for one in folder.iterdir()), key="checkpoint.json".__eq__))

    def send_files(self, folder: Path, step: int, names: Iterable[str]) -> None:
        """Copy some files of a folder to a checkpoint at the URL, in this order.

        Raises:
            OSError: the server refuses.
        """
        filesystem, path = self._remote()
        for name in names:
            filesystem.put_file(str(folder / name), f"{path}/step-{step:06d}/{name}")

    def drop(self, steps: Iterable[int]) -> None:
        """Remove checkpoints from the URL, the file that makes them one first."""
        filesystem, path = self._remote()
        for step in steps:
            filesystem.rm_file(f"{path}/step-{step:06d}/checkpoint.json")
            filesystem.rm(f"{path}/step-{step:06d}", recursive=True)
