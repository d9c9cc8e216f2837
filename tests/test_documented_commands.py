"""Commands in README and docs are commands: they parse, and their recipes pass every check before work."""

import dataclasses
import re
import shlex

import pytest

from cluster.session import ROOT
from pipelines.cli.main import VERBS
from pipelines.cli.stages import parse
from pipelines.plan.sets import is_set
from pipelines.recipes.check import check_recipe
from pipelines.recipes.named import RECIPES
from tests.conftest import write_corpus
from tests.models.whisper_support import save_whisper
from tests.pipelines.support import hubbub

PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
OF_STAGES = ("run", "simulate", "tokenize", "pack", "train", "evaluate", "plan")
BY_OTHERS = ("docs/extending.md",)  # test_extending.py runs its commands


def commands(page):
    """Each command of a page, in code of a line or of a block, without its comment."""
    text = (ROOT / page).read_text()
    blocks = [line for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    spans = [re.sub(r"\s+", " ", span) for span in re.findall(r"(?<!`)`(hubbub [^`]+)`(?!`)", text)]
    found = [re.split(r"\s+#", line.strip())[0] for line in [*blocks, *spans] if line.strip().startswith("hubbub ")]
    return [one for one in dict.fromkeys(found) if "..." not in one and "\\|" not in one and " | " not in one]


ALL = [(page, command) for page in PAGES if page not in BY_OTHERS for command in commands(page)]


def test_pages_have_commands():
    assert len([command for _, command in ALL if command.split()[1] in OF_STAGES]) > 15


@pytest.mark.parametrize(("page", "command"), ALL)
def test_a_documented_command_is_one(page, command, tmp_path):
    words = shlex.split(command)
    verb = words[1]
    assert verb in VERBS or verb == "cluster", f"{page}: there is no verb {verb}"
    if (
        verb not in OF_STAGES
        or len(words) < 3
        or {"--help", "--print-recipe"} & {*words}
        or words[2] in ("RECIPE", "my.yaml", "mine.yaml")
    ):
        return
    manifest = write_corpus(tmp_path / "corpus")
    given, takes_paths = [], False
    for plain in words[2:]:
        word = plain
        if word.startswith("--"):
            takes_paths = word in ("--corpus.manifests", "--corpus.recorded", "--corpus.audio-roots")
        if word == "runs/whisper-base":
            pytest.importorskip("transformers", reason="transformers (extra `codecs`) is not installed")
            save_whisper(tmp_path / "whisper")
            word = str(tmp_path / "whisper")
        is_path = takes_paths and not word.startswith("--")
        given.append("".join((*word.rpartition("=")[:2], str(manifest))) if is_path else word)
    recipe = parse(verb, given).recipe
    if not is_set(recipe):
        check_recipe(recipe)


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_passes_its_own_checks(name, tmp_path):
    recipe = RECIPES[name]()
    if recipe.corpus.stories is None:
        corpus = dataclasses.replace(recipe.corpus, manifests=(str(write_corpus(tmp_path / "corpus")),))
        recipe = dataclasses.replace(recipe, corpus=corpus)
    if recipe.encode.codec == "pcm" and recipe.model.encoder is None:  # the user's
        recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder="FOLDER"))
    if not is_set(recipe):
        check_recipe(recipe)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_ones_own_recordings_run_to_the_end_by_the_line_of_the_readme(tmp_path):
    """A handful of speakers, no test split by the corpus, no option but the path; training alone is cut short."""
    manifest = write_corpus(tmp_path / "corpus", num_speakers=5)
    (line,) = [one for one in commands("README.md") if one.startswith("hubbub run custom --corpus.manifests train=DIR")]
    words = [word for word in shlex.split(line)[1:] if "DIR_OR_FILE" not in word]
    words.insert(words.index("--corpus.manifests") + 1, str(manifest))
    done = hubbub(*words, "--output", tmp_path / "out", "--train.steps", 20, "--evaluate.max-tokens", 30)
    assert "cpWER trained" in done.stdout
    assert "the test split has 2 speakers, so its conversations have no more" in done.stdout
