"""Lists of rows: plain and NeMo JSON lines, JSON arrays and YAML, and lhotse's manifests, which are such files too."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from operators.corpus.formats import SUFFIXES, found_rows, plain_suffix
from operators.corpus.forms.fields import renamed
from operators.corpus.forms.form import Form, Row, Tree
from operators.corpus.forms.lhotse import cut_rows, is_cut, pair_rows, shar_members
from operators.corpus.manifest import Manifest

# In this order; of a folder, the files of the first that are there are one manifest.
_GROUPS = (("manifest*",), ("*recordings*", "*supervisions*"), ("*cuts*",), ("*manifest*",))


def list_files(tree: Tree) -> list[Path]:
    """Return the file that the user named, or those of a folder: a manifest, lhotse's pair, cuts, or any JSON lines."""
    if tree.path.is_file():
        return [tree.path] if plain_suffix(tree.path) in SUFFIXES or _is_json(tree.path) else []
    for suffixes in ((".jsonl",), (".json", ".yaml", ".yml")):
        for group in _GROUPS:
            ends = [f"{name}{suffix}{packed}" for name in group for suffix in suffixes for packed in ("", ".gz")]
            found = sorted({path for end in ends for path in tree.path.glob(end) if path.is_file()})
            if found:
                return found
    return sorted(
        path for path in tree.path.glob("*.jsonl*") if path.is_file() and not path.name.startswith("metadata")
    )


def _is_json(path: Path) -> bool:
    """Return whether a file of another suffix begins as a manifest does."""
    if path.suffix.lower() in (".csv", ".tsv", ".tar", ".parquet"):
        return False
    with open(path, "rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def read_lists(manifest: Manifest, files: Sequence[Path]) -> Iterator[Row]:
    """Yield the rows of lists, each of whatever kind it is.

    Raises:
        InputError: a file cannot be read, or its parts do not fit together.
    """
    if any("recordings" in path.name or "supervisions" in path.name for path in files):
        yield from pair_rows(manifest, files)
        return
    tracks: set[tuple[object, ...]] = set()
    for path in files:
        members = shar_members(path)
        for found in found_rows(path):
            if found.problem:
                yield {"where": found.where, "problem": found.problem}
            elif is_cut(found.row):
                for row in cut_rows(found.row, found.where, members):
                    # Mixtures hold one utterance several times: it is one utterance nevertheless.
                    same = (row.get("utterance_id"), row.get("audio"), row.get("start_s"))
                    if not (row.get("mixed") and same in tracks and not manifest.is_recorded):
                        yield row
                    tracks |= {same} if row.get("mixed") and "problem" not in row else set()
            else:
                yield renamed(found.row, manifest, found.where)


LISTS = Form("a manifest: NeMo or plain JSON lines, a JSON array, YAML, or lhotse's", list_files, read_lists)
