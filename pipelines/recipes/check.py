"""What is checked of a recipe before anything is started: rules that involve several of its sections."""

import re
from importlib.util import find_spec

from models.codecs import codec_entry
from models.training.order import mixture_names
from operators.corpus.sets.layouts import LAYOUTS
from operators.documents.tasks import TASKS
from operators.errors import InputError
from operators.evaluate.recognizers import load_recognizer
from pipelines.recipes.recipe import Recipe


def check_recipe(recipe: Recipe) -> None:
    """Check what no single stage can see.

    Raises:
        InputError: the rates of timeline and codec differ, windows cannot be packed, or there is no corpus.
    """
    codec = recipe.encode.spec
    if recipe.converse.sample_rate_hz != codec.sample_rate_hz:
        raise InputError(
            f"conversations are made at {recipe.converse.sample_rate_hz} Hz but codec {codec.name} needs "
            f"{codec.sample_rate_hz} Hz; set --converse.sample-rate-hz {codec.sample_rate_hz}"
        )
    columns = recipe.compose.layout_of(codec).num_columns(int(recipe.compose.window_s * codec.frame_rate_hz))
    if columns + 16 > recipe.pack.capacity:
        raise InputError(
            f"a window of {recipe.compose.window_s:g} s makes {columns} columns, but a pack holds "
            f"{recipe.pack.capacity}; raise --pack.capacity, lower --compose.window-s or raise --compose.group"
        )
    spoken = recipe.corpus.manifests or recipe.corpus.stories is not None
    if not spoken and not recipe.corpus.recorded and recipe.corpus.layout != "labels":
        raise InputError(
            f"recipe {recipe.name} needs to know where the set is: --corpus.recorded test=PATH of "
            f"{LAYOUTS[recipe.corpus.layout].about} (docs/sets.md)"
        )
    if not spoken and not recipe.corpus.recorded:
        raise InputError(
            "the recipe names no corpus: --corpus.manifests PATH ... of single speakers, --corpus.recorded PATH ... of "
            "conversations (or recipe demo, which speaks its own)"
        )
    if recipe.corpus.manifests and recipe.corpus.stories is not None:
        raise InputError("the recipe names manifests and stories; to use manifests, start from recipe custom")
    if spoken and not recipe.corpus.recorded and min(_cast(recipe)) < 1:
        raise InputError("casting: both splits need at least one conversation")
    if spoken and recipe.casting.most_speakers > recipe.converse.max_turns:
        raise InputError(
            f"conversations of up to {recipe.casting.most_speakers} speakers need as many turns, but "
            f"converse.max_turns is {recipe.converse.max_turns}: raise it, or lower --casting.max-speakers"
        )
    if spoken:
        recipe.place.check(recipe.casting.most_speakers)
    _check_low_bits(recipe)
    _ = recipe.compose.loaded_tokenizer
    for name in recipe.evaluate.recognizers:
        load_recognizer(name)
    _check_encoder(recipe)
    _check_features(recipe)
    marking = ", ".join(name for name, task in TASKS.items() if task.marks_talkers)
    if recipe.train.activity_weight and (
        recipe.compose.deduplicate or not any(TASKS[task].marks_talkers for task in recipe.compose.tasks)
    ):
        raise InputError(
            f"train.activity_weight asks who talks in prompts, which only {marking} know, without "
            "compose.deduplicate; set it to 0"
        )
    if recipe.pack.related == "together" and recipe.train.document_mask:
        raise InputError(
            "pack.related together has no effect where documents of a pack cannot see each other; set "
            "--train.document-mask false, so that they can, or leave out pack.related"
        )
    if recipe.train.mixture == ("grow",) and not recipe.pack.by_length:
        raise InputError(
            f"train.mixture grow goes from short packs to long ones, but pack.packer {recipe.pack.packer} puts both "
            "into one; set --pack.packer buckets"
        )
    _check_mixture(recipe)
    needy = [task for task in recipe.compose.tasks if TASKS[task].needs_stems]
    if needy and not recipe.encode.stems:
        raise InputError(
            f"compose.tasks: {needy[0]} needs codes of each speaker's own sound: --render.stems anechoic --encode.stems"
        )
    if recipe.encode.stems and recipe.render.stems == "none":
        raise InputError("encode.stems encodes what --render.stems makes; set it to reverberant, anechoic or both")


def _check_encoder(recipe: Recipe) -> None:
    """Check what audio that goes through an encoder needs, and what it cannot have.

    Raises:
        InputError: codec and encoder do not go together, or a task, layout or option is for codes.
    """
    continuous = codec_entry(recipe.encode.codec).is_continuous
    if continuous != (recipe.model.encoder is not None):
        raise InputError("codec pcm and a speech encoder go together: --encode.codec pcm needs --model.encoder FOLDER")
    if continuous:
        predicted = [task for task in recipe.compose.tasks if TASKS[task].predicts_audio]
        if predicted:
            raise InputError(f"compose.tasks: {predicted[0]} predicts audio, which codec pcm cannot; take asr tasks")
        if (recipe.compose.layout, recipe.compose.group) != ("parallel", 1):
            raise InputError("codec pcm has one column a frame: --compose.layout parallel --compose.group 1")
        if recipe.train.hide_bands or recipe.train.shift_bands:
            raise InputError("train.hide_bands and shift_bands are for codes whose codebooks are bands, not for pcm")
    _check_fewer_columns(recipe)
    _check_parts(recipe)


def _check_features(recipe: Recipe) -> None:
    """Check what features that are made once need.

    Raises:
        InputError: there is no encoder, or the recipe changes what the encoder hears or makes in every step.
    """
    if not recipe.features.are_stored:
        return
    changing = [
        ("model.encoder_rank", "trains the encoder", recipe.model.encoder_rank > 0),
        ("model.diarization encoder", "changes what the encoder hears", recipe.model.diarization == "encoder"),
        ("train.hide_spans", "hides some of the audio anew in every step", recipe.train.hide_spans > 0),
        ("compose.deduplicate", "leaves out samples", recipe.compose.deduplicate),
    ]
    if recipe.model.encoder is None:
        raise InputError(
            f"features.store {recipe.features.store} keeps an encoder's features: --encode.codec pcm "
            "--model.encoder FOLDER"
        )
    for name, does, is_set in changing:
        if is_set:
            raise InputError(f"{name} {does}, so its features cannot be made once: --features.store none")


def _check_fewer_columns(recipe: Recipe) -> None:
    """Check what models need whose blocks read fewer columns than packs hold, and a CTC loss at the projector.

    Raises:
        InputError: names the option, and what to set.
    """
    model, train = recipe.model, recipe.train
    if train.ctc_weight and train.ctc_at == "projector" and model.encoder is None:
        raise InputError("train.ctc_at projector is for audio that goes through an encoder; take output")
    if model.compress == "ctc" and train.ctc_weight and train.ctc_at != "projector":
        raise InputError("model.compress ctc leaves out columns that a CTC loss needs: --train.ctc-at projector")
    if model.compress == "ctc" and not train.ctc_weight and train.start_from is None:
        raise InputError(
            "model.compress ctc goes by CTC at the projector, which nothing trains: --train.ctc-weight 0.3 "
            "--train.ctc-at projector, or start from a checkpoint that was trained with it"
        )
    if model.drops_columns and train.activity_weight:
        raise InputError(
            "train.activity_weight is about all columns, which model.stack and model.compress merge; set it 0"
        )
    if model.drops_columns and train.compile == "graphs":
        raise InputError(
            "train.compile graphs needs few lengths, which model.stack and model.compress change; take blocks"
        )


def _check_parts(recipe: Recipe) -> None:
    """Check that there is something to train in each part of the model that the recipe names.

    Raises:
        InputError: there is not; names the option that gives it.
    """
    model, train = recipe.model, recipe.train
    trains = {"tokens": model.lora_rank, "lora": model.lora_rank, "encoder": model.encoder_rank}
    for part in train.only:
        if not trains.get(part, True):
            option = "model.encoder_rank" if part == "encoder" else "model.lora_rank"
            raise InputError(f"train.only {part} needs low-rank updates: --{option.replace('_', '-')} 16")
    if "llm" in train.only and model.lora_rank:
        raise InputError(
            "train.only llm trains the text LLM itself, which model.lora_rank freezes; take lora and tokens"
        )


def _check_low_bits(recipe: Recipe) -> None:
    """Check what training in 8 bits needs.

    Raises:
        InputError: torchao is not installed, or the model trains low-rank updates.
    """
    wanted = [f"--train.precision {recipe.train.precision}"] * (recipe.train.precision == "fp8")
    wanted += [f"--train.optimizer {recipe.train.optimizer}"] * (recipe.train.optimizer == "adamw8bit")
    if wanted and find_spec("torchao") is None:
        raise InputError(f"{wanted[0]} needs torchao: pip install 'hubbub[lowbit]'")
    if recipe.train.precision == "fp8" and recipe.model.lora_rank:
        raise InputError("train.precision fp8: low-rank updates (model.lora_rank) are trained in bf16")


def _check_mixture(recipe: Recipe) -> None:
    """Check a mixture as far as the recipe alone tells: its components are tasks, or buckets of a task.

    Raises:
        InputError: it cannot be read, or names no task of the recipe.
    """
    try:
        names = mixture_names(recipe.train.mixture)
    except ValueError as error:
        raise InputError(str(error)) from error
    tasks = [f"{prefix}{task}" for task in recipe.compose.tasks for prefix in ("", "recorded-")]
    for name in names:
        stem = re.split(r"[*?\[]", name)[0]  # a pattern names what begins like this
        if not any(task.startswith(stem) if stem != name else re.fullmatch(rf"{task}(-\d+)?", name) for task in tasks):
            raise InputError(
                f"train.mixture names {name!r}, which is no task of compose.tasks ({', '.join(recipe.compose.tasks)})"
            )


def _cast(recipe: Recipe) -> tuple[int, int]:
    return recipe.casting.train_conversations, recipe.casting.test_conversations
