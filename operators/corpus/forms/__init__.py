"""The forms in which people have corpora of single speakers: one table from a name to its reader.

A place is read in the first form that finds files there. A new form is one file and one line in `FORMS`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from operators.corpus.formats import SUFFIXES
from operators.corpus.forms.form import SOUNDS, Form, Row, Tree
from operators.corpus.forms.kaldi import KALDI
from operators.corpus.forms.lists import LISTS
from operators.corpus.forms.tables import COMMON_VOICE, LJSPEECH, PARQUET, TABLES
from operators.corpus.forms.tars import TARS
from operators.corpus.forms.trees import LIBRISPEECH, LIBRITTS, TEXTS, VCTK
from operators.corpus.manifest import Manifest
from operators.digest import digest, digest_file
from operators.errors import InputError

FORMS: dict[str, Form] = {
    "lists": LISTS,
    "kaldi": KALDI,
    "common_voice": COMMON_VOICE,
    "librispeech": LIBRISPEECH,
    "libritts": LIBRITTS,
    "vctk": VCTK,
    "ljspeech": LJSPEECH,
    "tables": TABLES,
    "parquet": PARQUET,
    "webdataset": TARS,
    "texts": TEXTS,
}
"""By name, in the order in which they are tried."""


def recognize(manifest: Manifest) -> tuple[str, list[Path]]:
    """Return the form of a corpus, and the files that decide what it is.

    Raises:
        InputError: it is of none; says what is there, and what to do.
    """
    tree = Tree(manifest.path)
    for name, form in FORMS.items():
        files = list(form.files(tree))
        if files:
            return name, files
    raise InputError(_refusal(tree))


def manifest_rows(manifest: Manifest) -> Iterator[Row]:
    """Yield one row for each utterance of a corpus, of whatever form, unchecked, and one for each that cannot be read.

    Raises:
        InputError: the corpus is of no known form, or a file cannot be read at all.
    """
    form, files = recognize(manifest)
    yield from FORMS[form].read(manifest, files)


def manifest_files(manifest: Manifest) -> list[Path]:
    """Return the files of a corpus, whose digests decide whether the index is fresh.

    Raises:
        InputError: it is of no known form.
    """
    return recognize(manifest)[1]


def manifests_digest(manifests: Sequence[Manifest]) -> list[str]:
    """Return `split:name:digest` of each manifest file, in order: what the index depends on.

    Trees, which have a file an utterance, have one entry; of their sound files only the names count.
    """
    found = []
    for manifest in manifests:
        form, files = recognize(manifest)
        split = manifest.split or ""
        if form == "lists":
            found += [f"{split}:{path.name}:{digest_file(path)}" for path in files]
            continue
        contents = [
            [path.relative_to(manifest.root).as_posix(), "" if path.suffix.lower() in SOUNDS else digest_file(path)]
            for path in files
        ]
        found.append(f"{split}:{form}:{digest(contents)}")
    return found


def _refusal(tree: Tree) -> str:
    """Return what is at a place that is of no form, the form that it is nearest to, and the next step."""
    if tree.path.is_file():
        return (
            f"{tree.path} is no manifest: {', '.join(SUFFIXES)} (also .gz), .csv, .tsv, .parquet and .tar are read; a "
            "folder may be given too (docs/corpora.md)"
        )
    counted = Counter(Path(name).suffix.lower() for name in tree.names)
    seen = ", ".join(f"{number:,} {suffix or 'without suffix'}" for suffix, number in counted.most_common(4))
    start = f"folder {tree.path} contains no manifest ({seen or 'it is empty'})"
    labels = [suffix for suffix in (".stm", ".rttm", ".textgrid", ".ctm") if counted[suffix]]
    lists = sorted({name.split("/")[0] for name in tree.names if name.lower().endswith((".jsonl", ".jsonl.gz"))})
    if labels and tree.sounds:
        return f"{start}; with {labels[0]} it is of recorded conversations: --corpus.recorded {tree.path}"
    if lists:
        return (
            f"{start}; give the folders that do: --corpus.manifests {' '.join(str(tree.path / n) for n in lists[:3])}"
        )
    if tree.sounds:
        return (
            f"{start}; it is nearest to sound files with texts: put NAME.txt beside each NAME.wav, or a metadata.csv "
            "with columns file_name, transcription and speaker_id (docs/corpora.md lists all forms)"
        )
    return f"{start}; docs/corpora.md lists the forms that are read, and the command for each"
