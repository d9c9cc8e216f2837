"""What a recipe reads: manifests, recorded conversations, the corpus that it makes itself, and where their audio is."""

from collections.abc import Sequence
from pathlib import Path

from operators.corpus import forms, joined, stories
from operators.corpus.forms.fields import NAMES, SPEAKER_RULES
from operators.corpus.manifest import Manifest, Reading, corpus_roots, same_people
from operators.digest import digest
from operators.errors import InputError
from pipelines.plan.output import Output
from pipelines.recipes.recipe import Recipe


def given_manifests(recipe: Recipe) -> list[Manifest]:
    """Return the manifests of single speakers that the user named.

    Raises:
        InputError: one does not exist.
    """
    return [Manifest.parse(text, reading_of(recipe)) for text in recipe.corpus.manifests]


def reading_of(recipe: Recipe) -> Reading:
    """Return what the recipe says of corpora that their files do not.

    Raises:
        InputError: a field or rule is none.
    """
    return Reading.parse(recipe.corpus.map, recipe.corpus.speaker_from, tuple(NAMES), tuple(SPEAKER_RULES))


def manifests_of(recipe: Recipe, output: Output) -> list[Manifest]:
    """Return the manifests that are indexed: the user's, or that of the corpus made for this recipe.

    Raises:
        InputError: one does not exist.
    """
    made = made_corpus(recipe, output)
    return [Manifest(path=made)] if made is not None else given_manifests(recipe)


def recorded_of(recipe: Recipe) -> list[Manifest]:
    """Return the manifests of recorded conversations that the user named.

    Raises:
        InputError: one does not exist.
    """
    return [Manifest.parse(text, reading_of(recipe)) for text in recipe.corpus.recorded]


def audio_roots_of(recipe: Recipe) -> list[Manifest]:
    """Return the folders that audio paths of given conversations start from, besides their list's own.

    Raises:
        InputError: one does not exist.
    """
    found = []
    for text in recipe.corpus.audio_roots:
        path = Path(text).expanduser().absolute()
        if not path.is_dir():
            raise InputError(f"--corpus.audio-roots {text} is no folder; it names folders that audio paths start from")
        found.append(Manifest(path=path))
    return found


def made_corpus(recipe: Recipe, output: Output) -> Path | None:
    """Return the folder of the corpus that the recipe makes (spoken stories, joined utterances), existing or not."""
    corpus = recipe.corpus
    if corpus.stories is not None:
        kind, key = "stories", digest({"stories": corpus.stories, "version": stories.VERSION})
    elif corpus.join is not None:
        from_ = forms.manifests_digest(given_manifests(recipe))
        kind = "joined"
        made_of = {"join": corpus.join, "seed": recipe.seed, "version": joined.VERSION, "manifests": from_}
        key = digest({**made_of, **people_of(recipe, given_manifests(recipe)), **reading_key(recipe)})
    else:
        return None
    return output.folder.absolute() / "corpus" / f"{kind}-{key[:12]}"


def people_of(recipe: Recipe, manifests: Sequence[Manifest]) -> dict[str, list[str]]:
    """Return what keys hold of the rule by which one speaker id is one person: nothing where there is one folder."""
    of_root = same_people(manifests, recipe.corpus.shared_speakers)
    return {"people": [of_root[one.root] for one in manifests]} if len(of_root) > 1 else {}


def reading_key(recipe: Recipe) -> dict[str, list[object]]:
    """Return what keys hold of how corpora are read: nothing where the recipe says nothing of it."""
    reading = reading_of(recipe)
    return {"reading": [list(map(list, reading.renamed)), reading.speaker_from]} if reading else {}


def audio_roots(recipe: Recipe, output: Output) -> dict[str, Path]:
    """Return the folder of every audio source, by the name that data sets use for it."""
    manifests = [*manifests_of(recipe, output), *recorded_of(recipe), *audio_roots_of(recipe)]
    return {**corpus_roots(manifests), **recipe.place.roots()}
