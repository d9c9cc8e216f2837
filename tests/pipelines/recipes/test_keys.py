"""What a field of the recipe makes stale: exactly the data sets that depend on it.

`CHANGES` lists every field of the recipe; a field that is missing here fails the test, so that nobody adds one without
saying what it does to results.
"""

import dataclasses
import shutil
from functools import cache

import numpy as np
import pytest
import soundfile

from operators.corpus.joined import Join
from operators.corpus.stories import Stories
from pipelines.plan.output import Output
from pipelines.plan.sources import made_corpus
from pipelines.recipes.phase import Phase
from pipelines.recipes.recipe import Recipe
from pipelines.stages import STAGES, plan_recipe
from tests.golden.fingerprints import Road, index_corpus, recipe_of, write_corpus
from tests.models.support import save_small_whisper

AUDIO_AND_CODES = {"audio", "codes"}
AFTER_TRAINING = {"training", "hypotheses"}
AFTER_PACKS = {"packs", *AFTER_TRAINING}
AFTER_CODES = {"codes", *AFTER_PACKS}
AFTER_CONVERSATIONS = {"conversations", "audio", *AFTER_CODES}
TEST_SPLIT = {"conversations", "audio", "codes", "hypotheses"}
NOTHING = set()
NOTHING_HERE = frozenset()  # counts, but only with another corpus or together with another field

CHANGES = {
    "name": ("other", NOTHING),
    "seed": (8, {"recordings", *AFTER_CONVERSATIONS}),
    "fit": (("steps",), AFTER_TRAINING),
    "phases": ((Phase(name="one"),), NOTHING_HERE),  # a run of each phase is planned by itself: see test_phases.py
    "corpus.manifests": ("OTHER", {"utterances", *AFTER_CONVERSATIONS}),
    "corpus.recorded": ("FEWER", {"recordings", *(AFTER_CONVERSATIONS)}),
    "corpus.layout": ("given", "REFUSED"),  # the folder holds no such list
    "corpus.audio_roots": ("AUDIO_ROOTS", {"recordings"}),  # no row's audio is there: what follows stays as it is
    "corpus.map": (("text=text",), {"utterances", "recordings"}),  # the name that it has: the rows stay the same
    "corpus.speaker_from": ("folder", {"utterances", "recordings"}),  # all rows name their speaker
    "corpus.where": ("speaker != 's1'", {"utterances", *AFTER_CONVERSATIONS}),
    "corpus.shared_speakers": ("never", NOTHING_HERE),  # the corpus is in one folder
    "corpus.language": ("de", {"utterances", "recordings", *AFTER_CONVERSATIONS}),
    "corpus.licence": ("CC-BY-4.0", {"utterances", "recordings", *AFTER_CONVERSATIONS}),
    "corpus.allow_licences": (("CC0",), NOTHING),
    "corpus.max_duration_s": (50.0, {"utterances"}),  # no row is that long: what follows stays as it is
    "corpus.min_utterances_per_speaker": (3, {"utterances"}),
    "corpus.max_bad_share": (0.5, NOTHING),
    "casting.train_conversations": (9, AFTER_CONVERSATIONS),
    "casting.validation_conversations": (1, {"recordings", *AFTER_CONVERSATIONS}),  # speakers leave the train split
    "casting.validation_speakers": (0.2, NOTHING_HERE),  # no validation conversation is asked for
    "casting.test_conversations": (3, TEST_SPLIT),
    "casting.min_speakers": (1, AFTER_CONVERSATIONS),
    "casting.max_speakers": (3, "REFUSED"),  # the test split has two speakers
    "casting.max_utterances": (2, AFTER_CONVERSATIONS),
    "casting.split": ("speaker", AFTER_CONVERSATIONS),
    "casting.test_speakers": (0.5, {"recordings"}),  # the manifest's own split is used
    "casting.shared_text": ("allow", NOTHING_HERE),  # no text of the corpus has five words
    "casting.speakers_per_cohort": (2, AFTER_CONVERSATIONS),
    "converse.prior": ("telephone", AFTER_CONVERSATIONS),
    "converse.model": ("sasc", AFTER_CONVERSATIONS),
    "converse.min_turns": (3, AFTER_CONVERSATIONS),
    "converse.max_turns": (6, AFTER_CONVERSATIONS),
    "converse.max_duration_s": (8.0, AFTER_CONVERSATIONS),
    "converse.sample_rate_hz": (8000, {"recordings", *AFTER_CONVERSATIONS}),
    "converse.min_own_pause_s": (0.2, AFTER_CONVERSATIONS),
    "converse.backchannels": (True, AFTER_CONVERSATIONS),
    "converse.cut_above_s": (5.0, AFTER_CONVERSATIONS),
    "converse.compress_above_s": (1.0, AFTER_CONVERSATIONS),
    "converse.speaker_gain_sd_db": (3.0, AFTER_CONVERSATIONS),
    "place.room": ("none", AFTER_CONVERSATIONS),
    "place.rirs": ("FOLDER", AFTER_CONVERSATIONS),
    "place.min_size_m": ((3.0, 3.0, 2.5), AFTER_CONVERSATIONS),
    "place.max_size_m": ((8.0, 6.0, 3.4), AFTER_CONVERSATIONS),
    "place.min_t60_s": (0.3, AFTER_CONVERSATIONS),
    "place.max_t60_s": (0.6, AFTER_CONVERSATIONS),
    "place.num_microphones": (1, AFTER_CONVERSATIONS),
    "place.array_radius_m": (0.06, AFTER_CONVERSATIONS),
    "place.candidates": (8, AFTER_CONVERSATIONS),
    "place.temperature": (2.0, AFTER_CONVERSATIONS),
    "place.noise": ("none", AFTER_CONVERSATIONS),
    "place.noises": ("FOLDER", AFTER_CONVERSATIONS),
    "place.min_snr_db": (14.0, AFTER_CONVERSATIONS),
    "place.max_snr_db": (29.0, AFTER_CONVERSATIONS),
    "render.level_dbfs": (-25.0, {"audio", *AFTER_CODES}),
    "render.keep_audio": (False, {"audio"}),
    "render.stems": ("anechoic", {"audio", *AFTER_CODES}),
    "encode.codec": ("pcm", AFTER_CODES),
    "encode.weights": ("nowhere", NOTHING),  # dmel has none
    "encode.num_codebooks": (80, NOTHING),  # dmel's own number
    "encode.stems": (False, AFTER_CODES),
    "encode.batch_s": (60.0, NOTHING),
    "encode.device": ("cuda", NOTHING),
    "encode.precision": ("bf16", "REFUSED"),  # dmel has none to choose
    "features.store": ("float16", "REFUSED"),  # there is no encoder: see test_features.py
    "features.device": ("cuda", NOTHING),
    "features.batch_s": (60.0, NOTHING),
    "compose.tasks": (("asr", "speak"), AFTER_PACKS),
    "compose.layout": ("depth", AFTER_PACKS),
    "compose.group": (4, AFTER_PACKS),
    "compose.window_s": (5.0, AFTER_PACKS),
    "compose.overlap_s": (0.5, AFTER_PACKS),
    "compose.carry_voices": (False, AFTER_PACKS),
    "compose.prompt_s": (0.6, AFTER_PACKS),
    "compose.enrol_s": (2.0, AFTER_PACKS),
    "compose.text": ("raw", AFTER_PACKS),
    "compose.tokenizer": ("TOKENIZER", AFTER_PACKS),
    "compose.hotwords": (5, AFTER_PACKS),
    "compose.hotwords_from": ("rare", AFTER_PACKS),
    "compose.empty_share": (0.5, AFTER_PACKS),
    "compose.silence_share": (0.1, AFTER_PACKS),
    "compose.deduplicate": (True, AFTER_PACKS),
    "compose.seed": (8, AFTER_PACKS),
    "pack.capacity": (800, AFTER_PACKS),
    "pack.multiple_of": (8, NOTHING),
    "pack.packer": ("single", AFTER_PACKS),
    "pack.related": ("apart", AFTER_PACKS),
    "pack.related_by": ("speakers", AFTER_PACKS),
    "pack.window_documents": (100, AFTER_PACKS),
    "partitions.conversations_per_partition": (2, AFTER_CONVERSATIONS),
    "partitions.recordings_per_partition": (1, AFTER_CONVERSATIONS),
    "partitions.partitions_per_pack_group": (2, AFTER_PACKS),
    "model.dim": (64, AFTER_TRAINING),
    "model.num_layers": (3, AFTER_TRAINING),
    "model.num_heads": (4, AFTER_TRAINING),
    "model.num_kv_heads": (2, AFTER_TRAINING),
    "model.ffn_dim": (48, AFTER_TRAINING),
    "model.rope_theta": (1e5, AFTER_TRAINING),
    "model.qk_norm": (False, AFTER_TRAINING),
    "model.prompt_attention": ("both", AFTER_TRAINING),
    "model.depth_dim": (16, AFTER_TRAINING),
    "model.depth_layers": (1, AFTER_TRAINING),
    "model.head_width": (8, AFTER_TRAINING),
    "model.norm_eps": (1e-5, AFTER_TRAINING),
    "model.qkv_bias": (True, AFTER_TRAINING),
    "model.tie_text": (True, AFTER_TRAINING),
    "model.rope_scaling": ((8.0, 1.0, 4.0, 8192.0), AFTER_TRAINING),
    "model.encoder": ("ENCODER", AFTER_TRAINING),
    "model.projector": ("queries", AFTER_TRAINING),
    "model.stack": (8, "REFUSED"),  # there is no encoder
    "model.compress": ("ctc", "REFUSED"),
    "model.encoder_rank": (4, AFTER_TRAINING),
    "model.encoder_window": ("full", AFTER_TRAINING),
    "model.encoder_layers": ((1,), AFTER_TRAINING),
    "model.encoder_mix": ("sum", AFTER_TRAINING),
    "model.encoder_tail_s": (2.0, "REFUSED"),  # these five are of Whisper: see tests/pipelines/recipes/test_whisper.py
    "model.decoder": ("whisper", "REFUSED"),
    "model.diarization": ("frames", "REFUSED"),
    "model.num_positions": (448, AFTER_TRAINING),
    "model.prefix": ((60,), AFTER_TRAINING),
    "model.language": ("de", AFTER_TRAINING),
    "model.lora_rank": (4, AFTER_TRAINING),
    "model.lora_alpha": (16.0, AFTER_TRAINING),
    "train.steps": (3, AFTER_TRAINING),
    "train.packs_per_step": (3, AFTER_TRAINING),
    "train.packs_per_pass": (2, AFTER_TRAINING),
    "train.mixture": ((), AFTER_TRAINING),
    "train.hide_bands": (1, AFTER_TRAINING),
    "train.hide_spans": (1, AFTER_TRAINING),
    "train.shift_bands": (1, AFTER_TRAINING),
    "train.on_bad_shard": ("skip", AFTER_TRAINING),
    "train.optimizer": ("muon", AFTER_TRAINING),
    "train.lr": (1e-3, AFTER_TRAINING),
    "train.pretrained_lr": (1e-5, AFTER_TRAINING),
    "train.min_lr_share": (0.2, AFTER_TRAINING),
    "train.warmup_steps": (2, AFTER_TRAINING),
    "train.schedule": ("wsd", AFTER_TRAINING),
    "train.weight_decay": (0.02, AFTER_TRAINING),
    "train.beta1": (0.8, AFTER_TRAINING),
    "train.beta2": (0.9, AFTER_TRAINING),
    "train.clip_norm": (2.0, AFTER_TRAINING),
    "train.document_mask": (False, AFTER_TRAINING),
    "train.ctc_weight": (0.1, AFTER_TRAINING),
    "train.only": (("projector",), AFTER_TRAINING),
    "train.ctc_at": ("projector", AFTER_TRAINING),
    "train.activity_weight": (0.1, AFTER_TRAINING),
    "train.tag_weight": (2.0, AFTER_TRAINING),
    "train.pad_weight": (0.5, AFTER_TRAINING),
    "train.z_loss": (1e-4, AFTER_TRAINING),
    "train.stream_weights": ((1.0,), AFTER_TRAINING),
    "train.ema_decay": (0.9, AFTER_TRAINING),
    "train.on_bad_step": ("skip", AFTER_TRAINING),
    "train.spike_factor": (5.0, AFTER_TRAINING),
    "train.start_from": ("last", AFTER_TRAINING),
    "train.precision": ("bf16", AFTER_TRAINING),
    "train.recompute": ("cheap", NOTHING),
    "train.compile": ("blocks", NOTHING),
    "train.shard": ("full", NOTHING),
    "train.shard_size": (2, "REFUSED"),  # nothing is sharded
    "train.context_size": (2, NOTHING),
    "train.bucket_mb": (0.0, NOTHING),
    "train.checkpoint_every": (2, NOTHING),
    "train.keep_checkpoints": (3, NOTHING),
    "train.keep_best": (1, NOTHING),
    "train.validate_every": (50, NOTHING),
    "train.validate_conversations": (4, NOTHING),
    "train.best_by": ("cpwer", "REFUSED"),  # no conversation is transcribed
    "train.patience": (2, "REFUSED"),  # there is no validation split
    "train.attention": ("loop", NOTHING),
    "train.num_threads": (1, NOTHING),
    "evaluate.tasks": (("asr",), {"hypotheses"}),
    "evaluate.normalizer": ("none", NOTHING),
    "evaluate.slices": (("gender",), NOTHING),
    "evaluate.baselines": (("tokenizer",), NOTHING),
    "evaluate.recognizers": (("pocketsphinx",), {"hypotheses"}),
    "evaluate.window_s": (7.0, {"hypotheses"}),
    "evaluate.cut": ("fixed", {"hypotheses"}),
    "evaluate.beams": (2, {"hypotheses"}),
    "evaluate.diarization": ("model", NOTHING_HERE),  # task asr_talker is not asked
    "evaluate.join": ((), {"hypotheses"}),
    "evaluate.overlap_s": (0.5, {"hypotheses"}),
    "evaluate.checkpoint": ("best", "REFUSED"),  # there is no validation split
    "evaluate.max_tokens": (13, {"hypotheses"}),
    "evaluate.batch_size": (3, NOTHING),
    "evaluate.constrain": (False, {"hypotheses"}),
    "evaluate.untrained": (False, {"hypotheses"}),
}
"""By field: another value, and the data sets whose partitions are then others."""

MADE_CORPORA = ("corpus.join", "corpus.stories")
"""Corpora that the recipe makes itself: see `test_a_made_corpus_has_a_folder_for_each_of_its_recipes`."""


def leaves(kind=Recipe, path=""):
    """Every field of a recipe that is no section of it."""
    for field in dataclasses.fields(kind):
        value = getattr(kind(), field.name)
        name = f"{path}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from leaves(type(value), f"{name}.")
        else:
            yield name


def with_field(recipe, path, value):
    section, _, rest = path.partition(".")
    if rest:
        value = with_field(getattr(recipe, section), rest, value)
    return dataclasses.replace(recipe, **{section: value})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A recipe in which everything takes part, and a function that plans another one beside it."""
    folder = tmp_path_factory.mktemp("keys")
    recipe = recipe_of(*write_corpus(folder / "corpus"))

    @cache
    def keys(other):
        """Every data set's partitions and their keys."""
        road = Road(other, Output(folder / "out"))
        index_corpus(road)
        plan = plan_recipe(other, road.output)
        planned = {stage.dataset: {(p.partition_id, p.key) for p in stage.partitions} for stage in plan.stages}
        return {stage.dataset: planned.get(stage.dataset, set()) for stage in STAGES}

    return folder, recipe, keys


def stale(keys, before, after):
    return {name for name in keys(before) if keys(before)[name] != keys(after)[name]}


def sounds(folder):
    folder.mkdir()
    for number in range(2):
        soundfile.write(folder / f"{number}.wav", np.linspace(0.5, -0.5, 4000 + number), 16_000, subtype="PCM_16")
    return str(folder)


def made(folder, path, recipe):
    """The other value of a field that names files."""
    if path == "corpus.manifests":
        other = folder / "corpus/other.jsonl"
        other.write_text((folder / "corpus/manifest.jsonl").read_text().replace("seven", "nine"))
        return (str(other),)
    if path == "corpus.recorded":
        shutil.copytree(folder / "corpus/recorded", folder / "fewer")
        for name in ("meeting1.wav", "meeting1.stm"):
            (folder / "fewer" / name).unlink()
        return (f"train={folder / 'fewer'}",)
    if path in ("place.rirs", "place.noises"):
        return sounds(folder / path)
    if path == "corpus.audio_roots":
        sounds(folder / path)
        return (str(folder / path),)
    if path == "compose.tokenizer":
        tokenizers = pytest.importorskip("tokenizers", reason="tokenizers (extra `codecs`) is not installed")
        file = folder / "tokenizer.json"
        tokenizers.Tokenizer(tokenizers.models.BPE({chr(97 + i): i for i in range(26)}, [])).save(str(file))
        return str(file)
    assert path == "model.encoder"
    pytest.importorskip("transformers", reason="transformers (extra `codecs`) is not installed")
    return save_small_whisper(folder / "encoder")


def test_every_field_is_listed():
    assert {*CHANGES, *MADE_CORPORA} == set(leaves())


@pytest.mark.parametrize("path", CHANGES)
def test_exactly_what_depends_on_a_field_becomes_stale(base, path):
    folder, recipe, keys = base
    value, expected = CHANGES[path]
    if expected == "REFUSED":
        said = r"speaker|no validation split|no list|needs --train|of train.shard full|computes in float32"
        said += "|--model.encoder FOLDER|--model.from-whisper FOLDER"
        with pytest.raises(ValueError, match=said):
            keys(with_field(recipe, path, value))
        return
    if isinstance(value, str) and value.isupper() and path != "corpus.licence":
        value = made(folder, path, recipe)
    changed = recipe
    if path == "place.rirs":
        changed = with_field(recipe, "place", dataclasses.replace(recipe.place, room="recorded", rirs=value))
    elif path == "place.noises":
        changed = with_field(recipe, "place", dataclasses.replace(recipe.place, noise="recorded", noises=value))
    else:
        changed = with_field(recipe, path, value)
    assert changed != recipe
    assert stale(keys, recipe, changed) == expected
    # The identity of a recipe follows the same declarations.
    declared = (not expected and expected is not NOTHING_HERE) or path in ("render.keep_audio", "evaluate.untrained")
    content = path in (
        *("encode.weights", "encode.num_codebooks"),
        *("evaluate.tasks", "evaluate.normalizer", "evaluate.slices", "evaluate.baselines", "evaluate.recognizers"),
    )  # names of things are part of a recipe's identity
    assert (changed.digest == recipe.digest) == (declared and not content and path != "corpus.max_duration_s")


def test_the_validation_split_counts_where_it_decides_what_is_kept(base):
    _, recipe, keys = base
    watched = with_field(recipe, "casting.validation_conversations", 1)
    kept = with_field(watched, "train.keep_best", 1)
    patient = with_field(watched, "train.patience", 2)
    more = with_field(watched, "casting.validation_conversations", 2)
    data = {"conversations", "audio", "codes", "packs"}
    assert stale(keys, watched, more) == data
    assert stale(keys, kept, with_field(more, "train.keep_best", 1)) == {*data, *AFTER_TRAINING}
    assert stale(keys, patient, with_field(more, "train.patience", 2)) == {*data, *AFTER_TRAINING}
    for before, expected in ((watched, NOTHING), (kept, AFTER_TRAINING), (patient, AFTER_TRAINING)):
        assert stale(keys, before, with_field(before, "train.validate_every", 50)) == expected
    assert stale(keys, kept, with_field(kept, "evaluate.checkpoint", "best")) == {"hypotheses"}
    assert stale(keys, kept, with_field(kept, "train.keep_best", 2)) == NOTHING
    with pytest.raises(ValueError, match=r"--train\.keep-best 1"):
        keys(with_field(watched, "evaluate.checkpoint", "best"))
    with pytest.raises(ValueError, match=r"--train\.validate-every above 0"):
        keys(with_field(with_field(kept, "train.validate_every", 0), "evaluate.checkpoint", "best"))


def test_files_count_by_their_content_not_by_where_they_are(base):
    folder, recipe, keys = base
    place = dataclasses.replace(recipe.place, noise="recorded", noises=sounds(folder / "one"))
    shutil.copytree(folder / "one", folder / "two")
    before = dataclasses.replace(recipe, place=place)
    after = dataclasses.replace(recipe, place=dataclasses.replace(place, noises=str(folder / "two")))
    assert stale(keys, before, after) == set()
    soundfile.write(folder / "two/0.wav", np.linspace(-0.5, 0.5, 4000), 16_000, subtype="PCM_16")
    from operators.corpus.sounds import list_sounds

    getattr(list_sounds, "cache_clear", lambda: None)()
    again = dataclasses.replace(after, name="again")
    assert stale(keys, before, again) == AFTER_CONVERSATIONS


@pytest.mark.parametrize(("section", "kind"), [("join", Join), ("stories", Stories)])
def test_a_made_corpus_has_a_folder_for_each_of_its_recipes(base, section, kind, tmp_path):
    _, recipe, _ = base
    output = Output(tmp_path)

    def folder_of(value):
        return made_corpus(with_field(recipe, f"corpus.{section}", value), output)

    plain = kind()
    for field in dataclasses.fields(kind):
        value = getattr(plain, field.name)
        lower = value - 1 if isinstance(value, int) and value > 0 else value + 0.01
        other = dataclasses.replace(plain, **{field.name: 1 if field.name == "seed" else lower})
        assert folder_of(other) != folder_of(plain), field.name


def test_every_version_is_part_of_a_key(base, monkeypatch):
    """Each stage's versions, raised one by one, make it stale and what follows, and nothing before it."""
    _, recipe, keys = base
    from models.config.options import Training
    from operators.corpus import cast, recorded
    from operators.corpus.sets import layouts
    from operators.documents.compose import Compose
    from operators.evaluate.transcribe import Transcribe
    from operators.packing.pack import Pack
    from operators.simulate.converse import Converse
    from operators.simulate.render import Render
    from operators.simulate.rooms import Place
    from operators.tokenize.encode import Encode

    before = keys(recipe)
    for number, (owner, name, expected) in enumerate(
        (
            (recorded, "VERSION", {"recordings"}),
            (layouts, "VERSION", {"recordings"}),
            (cast, "VERSION", AFTER_CONVERSATIONS),
            (Converse, "version", AFTER_CONVERSATIONS),
            (Place, "version", AFTER_CONVERSATIONS),
            (Render, "version", {"audio", *AFTER_CODES}),
            (Encode, "version", AFTER_CODES),
            (Compose, "version", AFTER_PACKS),
            (Pack, "version", AFTER_PACKS),
            (Training, "version", AFTER_TRAINING),
            (Transcribe, "version", {"hypotheses"}),
        )
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, "raised")
            after = keys(dataclasses.replace(recipe, name=f"raised-{number}"))
        assert {one for one in before if before[one] != after[one]} == expected, owner


def test_a_given_checkpoint_is_asked_the_recipes_question(base, tmp_path):
    """With --checkpoint, the key holds which transcription is asked for, and nothing of the recipe's own training."""
    folder, recipe, _ = base
    from models.config.header import Header
    from pipelines.plan.header import header_of

    checkpoint = tmp_path / "step-000001"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    header = header_of(recipe, {})
    assert isinstance(header, Header)
    import json

    from operators.digest import to_jsonable

    (checkpoint / "checkpoint.json").write_text(json.dumps({**to_jsonable(header), "step": 1}))

    def hypotheses(other):
        road = Road(other, Output(folder / "out"))
        index_corpus(road)
        return {p.key for p in plan_recipe(other, road.output, checkpoint).stage("hypotheses").partitions}

    timed = with_field(recipe, "compose.tasks", ("asr_timed",))
    slower = with_field(recipe, "train.lr", 1e-5)
    assert hypotheses(recipe) != hypotheses(timed)
    assert hypotheses(recipe) == hypotheses(slower)
