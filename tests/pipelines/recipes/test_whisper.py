"""One option starts from Whisper: what it sets, what may stand beside it, and what is refused."""

import json
from dataclasses import replace

import pytest

from operators.errors import InputError
from pipelines.cli.stages import parse
from pipelines.plan.header import header_of
from pipelines.plan.start import check_start
from pipelines.recipes.check import check_recipe
from pipelines.recipes.files import load_recipe, to_json
from pipelines.recipes.named import demo
from pipelines.recipes.recipe import Recipe
from pipelines.recipes.whisper import TAIL_S, from_whisper
from tests.models.whisper_support import save_whisper

pytest.importorskip("transformers", reason="transformers (extra `codecs`) is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("whisper") / "small"
    save_whisper(path)
    return path


def test_the_option_sets_codec_encoder_features_tokenizer_and_weights(folder):
    recipe = from_whisper(demo(), str(folder))
    check_recipe(recipe)
    assert (recipe.encode.codec, recipe.features.store, recipe.compose.tokenizer) == ("pcm", "float16", str(folder))
    assert (recipe.model.decoder, recipe.model.num_positions, len(recipe.model.prefix)) == ("whisper", 64, 2)
    assert (recipe.model.encoder, recipe.model.encoder_tail_s) == (str(folder), TAIL_S)
    assert recipe.train.start_from == str(folder)
    header = header_of(recipe, {})
    assert header.shape == recipe.model
    check_start(recipe, header)


def test_command_line_and_file_say_the_same_and_what_stands_beside_it_holds(folder, tmp_path):
    options = ["--model.from-whisper", str(folder), "--model.encoder-tail-s", "1.0", "--features.store", "int8"]
    by_command = parse("plan", ["demo", *options]).recipe
    path = tmp_path / "mine.yaml"
    model = {"from_whisper": str(folder), "encoder_tail_s": 1.0}
    path.write_text(json.dumps({"extends": "demo", "name": "demo", "model": model, "features": {"store": "int8"}}))
    by_file = load_recipe(str(path))
    assert by_command.model.encoder_tail_s == 1.0
    assert by_command.features.store == "int8"
    assert to_json(replace(by_command, fit=())) == to_json(replace(by_file, fit=()))


def test_what_lacks_a_file_or_a_language_is_named(folder, tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        from_whisper(Recipe(), str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"lacks tokenizer\.json"):
        from_whisper(Recipe(), str(tmp_path))
    french = replace(Recipe(), model=replace(Recipe().model, language="fr"))
    with pytest.raises(InputError, match=r"<\|fr\|>"):
        from_whisper(french, str(folder))


@pytest.mark.parametrize(
    ("section", "values", "named"),
    [
        ("train", {"ctc_weight": 0.3}, "train.ctc_weight"),
        ("train", {"activity_weight": 0.3}, "train.activity_weight"),
        ("train", {"compile": "graphs"}, "train.compile graphs"),
        ("train", {"context_size": 2}, "train.context_size"),
        ("compose", {"window_s": 40.0}, "window"),
    ],
)
def test_what_whispers_decoder_cannot_do_is_refused_before_work_starts(folder, section, values, named):
    recipe = from_whisper(demo(), str(folder))
    recipe = replace(recipe, **{section: replace(getattr(recipe, section), **values)})
    with pytest.raises(InputError, match=named):
        check_start(recipe, header_of(recipe, {}))


def test_telling_the_encoder_needs_it_in_every_step(folder):
    recipe = from_whisper(demo(), str(folder))
    told = replace(recipe, model=replace(recipe.model, diarization="encoder"))
    with pytest.raises(InputError, match=r"model\.diarization encoder.*features\.store none"):
        check_recipe(told)
    check_recipe(replace(told, features=replace(told.features, store="none")))
    check_recipe(replace(told, model=replace(told.model, diarization="frames")))
