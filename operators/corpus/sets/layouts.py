"""How sets are laid out on disk: a table from a layout's name to its reader."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from operators.corpus.manifest import Manifest
from operators.corpus.recorded import Listed, label_files, read_labels
from operators.corpus.sets import meetings, mixtures
from operators.corpus.sets.given import list_files, read_given

VERSION = "1"
"""Raised where a reader's result changes."""
LayoutName = Literal[
    "labels",
    "given",
    "librispeechmix",
    "librimix_clean",
    "librimix_noisy",
    "libricss",
    "libricss_clean",
    "ami_ihm_mix",
    "ami_sdm",
    "notsofar",
    "chime6",
    "libriconvo",
]


@dataclass(frozen=True)
class Layout:
    """One way in which conversations are listed."""

    about: str
    """What a user names, in a few words."""
    files: Callable[[Manifest], Sequence[Path]]
    """Files whose contents decide what the conversations are."""
    read: Callable[[Manifest, Sequence[Path]], Sequence[Listed]]
    """Reads a manifest, given the other folders where audio is looked for."""


LAYOUTS: dict[LayoutName, Layout] = {
    "labels": Layout("lhotse manifest, or a folder with STM or RTTM", label_files, lambda m, _: read_labels(m)),
    "given": Layout("list of given conversations (JSON lines)", list_files, lambda m, _: read_given(m)),
    "librispeechmix": Layout(
        "list/ of LibriSpeechMix", mixtures.librispeechmix_files, lambda m, _: mixtures.read_librispeechmix(m)
    ),
    "librimix_clean": Layout("metadata/Libri2Mix", mixtures.librimix_files, mixtures.read_librimix),
    "librimix_noisy": Layout(
        "metadata/Libri2Mix", mixtures.librimix_files, partial(mixtures.read_librimix, noisy=True)
    ),
    "libricss": Layout("for_release/ of LibriCSS", meetings.libricss_files, lambda m, _: meetings.read_libricss(m)),
    "libricss_clean": Layout(
        "for_release/ of LibriCSS", meetings.libricss_files, lambda m, _: meetings.read_libricss(m, clean=True)
    ),
    "ami_ihm_mix": Layout(
        "manifests of `lhotse prepare ami --mic ihm-mix`",
        partial(meetings.ami_files, microphone="ihm-mix"),
        lambda m, _: meetings.read_ami(m, microphone="ihm-mix"),
    ),
    "ami_sdm": Layout(
        "manifests of `lhotse prepare ami --mic sdm`",
        partial(meetings.ami_files, microphone="sdm"),
        lambda m, _: meetings.read_ami(m, microphone="sdm"),
    ),
    "notsofar": Layout("MTG folders of NOTSOFAR-1", meetings.notsofar_files, lambda m, _: meetings.read_notsofar(m)),
    "chime6": Layout("CHiME6/ of CHiME-6", meetings.chime6_files, lambda m, _: meetings.read_chime6(m)),
    "libriconvo": Layout("LibriConvo, unpacked", meetings.libriconvo_files, lambda m, _: meetings.read_libriconvo(m)),
}
assert set(LAYOUTS) == set(get_args(LayoutName))
