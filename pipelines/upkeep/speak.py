"""data speak: texts -> a corpus that synthetic voices speak, as FLAC files and a manifest."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from operators.corpus.voices import load_synthesizer
from operators.corpus.voices.drawing import Draw, Part
from operators.corpus.voices.speaking import Journal, job_of, journal_of, key_of
from operators.corpus.voices.synthesizer import Synthesizer
from operators.corpus.voices.texts import TextForm, read_texts
from operators.errors import InputError
from pipelines.reporting import console

_ROOT = Path(__file__).resolve().parents[2]
_MANIFEST = "manifest.jsonl"


def speak_corpus(source: Path, form: TextForm, listed: str, draw: Draw, folder: Path, workers: int) -> None:
    """Speak texts in the voices of synthesizers; a run that was stopped, run again, goes on where it was.

    Args:
        source: file or folder of texts.
        form: of the texts.
        listed: synthesizers as FAMILY or FAMILY:FOLDER, parted by commas.
        draw: how texts are drawn for voices.
        folder: gets audio/, manifest.jsonl and quarantine.jsonl.
        workers: processes.

    Raises:
        InputError: texts or synthesizers cannot be used, or the folder holds another corpus; nothing was spoken then.
    """
    texts, bad = read_texts(source, form)
    synthesizers = _synthesizers(listed)
    named = {family.partition(":")[0] for family in synthesizers}
    if unknown := sorted(set(draw.weights or {}) - named):
        raise InputError(f"--weights names {', '.join(unknown)}, which --voices does not")
    parts = draw.parts(synthesizers, texts)
    before_s = _before(parts, synthesizers, folder)
    folder.mkdir(parents=True, exist_ok=True)
    began_s = time.perf_counter()
    with console.bar("speak", round(draw.hours * 3600)) as bar:
        bar.to(done_s := before_s)

        def report(spoken_s: float) -> None:
            nonlocal done_s
            done_s += spoken_s
            bar.to(done_s, f"{(done_s - before_s) / (time.perf_counter() - began_s):.1f} times real time")

        took = _speak_all(parts, folder, workers, report)
    duration_s = _write(parts, folder, bad)
    elapsed_s = time.perf_counter() - began_s
    for family, (spoken_s, took_s) in took.items():
        if spoken_s:
            factor = f"real-time factor {took_s / spoken_s:.3f} a worker"
            console.line(family, f"{console.hours(spoken_s)} of speech in {console.duration(took_s)}: {factor}")
    console.line("spoken", f"{console.hours(duration_s)} in {console.duration(elapsed_s)}, {_sides(parts)}")
    if duration_s < 0.99 * draw.hours * 3600:
        console.notice(
            f"{console.hours(draw.hours * 3600)} were wanted: some voices have said every text that they have"
        )
    console.line("written", f"{folder}; use it with --corpus.manifests {folder}")


def _synthesizers(listed: str) -> dict[str, Synthesizer]:
    """Return the synthesizers by FAMILY or FAMILY:FOLDER, the folder as an absolute path.

    Raises:
        InputError: one is unknown, named twice, or lacks something.
    """
    found: dict[str, Synthesizer] = {}
    for one in listed.split(","):
        name, colon, place = one.strip().partition(":")
        family = f"{name}:{Path(place).resolve()}" if colon and place else f"{name}{colon}"
        if name in {known.partition(":")[0] for known in found}:
            raise InputError(f"--voices names {name} twice")
        found[family] = load_synthesizer(family)
    return found


def _before(parts: Sequence[Part], synthesizers: Mapping[str, Synthesizer], folder: Path) -> float:
    """Return the duration of what the folder holds of these parts already, in seconds.

    Raises:
        InputError: it holds another corpus.
    """
    if (folder / _MANIFEST).exists() and not (folder / ".voices").is_dir():
        raise InputError(f"{folder} holds another corpus; name a new folder")
    sum_s = 0.0
    for part in parts:
        journal = Journal.read(journal_of(folder, part))
        if journal is None:
            continue
        if journal.key != key_of(part, synthesizers[part.family]):
            raise InputError(
                f"{folder} holds what {part.name} said of other texts, by another seed, --test-share or version of "
                "its program; name a new folder, or remove this one"
            )
        sum_s += journal.until(part.duration_s)[1]
    return sum_s


def _speak_all(
    parts: Sequence[Part], folder: Path, workers: int, report: Callable[[float], None]
) -> dict[str, tuple[float, float]]:
    """Have workers speak all parts; return what was spoken and how long it took by family, both in seconds."""
    waiting: queue.SimpleQueue[Part] = queue.SimpleQueue()
    for part in parts:
        waiting.put(part)
    took: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    running: list[subprocess.Popen[str]] = []
    lock = threading.Lock()

    def drive(number: int) -> None:
        worker, stderr = running[number], logs[number]
        assert worker.stdin is not None
        assert worker.stdout is not None
        while True:
            try:
                part = waiting.get_nowait()
            except queue.Empty:
                break
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.write(job_of(part, folder))
                worker.stdin.flush()
            while made := json.loads(worker.stdout.readline() or "null"):
                with lock:
                    took[part.family.partition(":")[0]][0] += made[0]
                    took[part.family.partition(":")[0]][1] += made[1]
                    report(made[0])
            if made is None:
                stderr.seek(0)
                said = stderr.read().decode(errors="replace").strip().splitlines()
                raise RuntimeError(
                    f"the worker that spoke {part.name} ended: {said[-1] if said else 'no reason given'}"
                )

    command = [sys.executable, "-m", "operators.corpus.voices.speaking"]
    number = min(workers, len(parts))
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(number)]
        for log in logs:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            pipe = subprocess.PIPE
            worker = subprocess.Popen(
                command, cwd=_ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=log, text=True
            )
            running.append(stack.enter_context(worker))
            stack.callback(worker.kill)  # one that fails, or Ctrl-C, ends all; the journals hold what was spoken
        with ThreadPoolExecutor(number) as pool:
            futures = [pool.submit(drive, i) for i in range(number)]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                for worker in running:
                    worker.kill()
                raise
    return {family: (spoken_s, took_s) for family, (spoken_s, took_s) in sorted(took.items())}


def _write(parts: Sequence[Part], folder: Path, bad: Sequence[dict[str, str]]) -> float:
    """Write manifest and quarantine from the journals; return the duration of the corpus in seconds."""
    rows: list[dict[str, Any]] = []
    quarantined: list[dict[str, Any]] = list(bad)
    for part in parts:
        journal = Journal.read(journal_of(folder, part))
        assert journal is not None
        for row in journal.until(part.duration_s)[0]:
            (rows if "audio" in row else quarantined).append({k: v for k, v in row.items() if k != "digest"})
    for name, lines in ((_MANIFEST, rows), ("quarantine.jsonl", quarantined)):
        text = "".join(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n" for line in lines)
        (folder / f".{name}").write_text(text, encoding="utf-8")
        os.replace(folder / f".{name}", folder / name)
    for reason, number in Counter(line["reason"] for line in quarantined).most_common(3):
        console.notice(f"{number:,} could not be spoken: {reason} ({folder / 'quarantine.jsonl'})")
    if not rows:
        raise InputError(f"no voice could say any text; {folder / 'quarantine.jsonl'} says why")
    return float(sum(row["duration"] for row in rows))


def _sides(parts: Sequence[Part]) -> str:
    counted = Counter(part.split for part in parts)
    return ", ".join(f"{number} voices in {split}" for split, number in sorted(counted.items(), reverse=True))
