"""What a text normalizer is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata

from operators.errors import InputError


@dataclass(frozen=True)
class Normalizer:
    """A function from raw to normalized text, and examples that its contract test holds."""

    normalize: Callable[[str], str]
    about: str
    """What it does, in a few words, for the documentation."""
    examples: Mapping[str, str]
    """Raw text to normalized text."""
    package: str | None = None
    """The package that it is from, if not ours; imported when it is first used."""
    install: str = ""
    """What `pip install` takes to install the package."""
    is_stable: bool = True
    """Whether normalized text stays as it is when it is normalized again."""

    def version(self) -> str:
        """Return the package's version; empty for ours, whose names end in their version.

        Raises:
            InputError: the package is not installed.
        """
        if self.package is None:
            return ""
        try:
            return f"{self.package} {metadata.version(self.package)}"
        except metadata.PackageNotFoundError as error:
            raise InputError(
                f"this text normalizer is from {self.package}, which is not installed: pip install '{self.install}'"
            ) from error
