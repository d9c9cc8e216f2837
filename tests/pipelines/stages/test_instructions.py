"""All six instructions, hotwords and formatted text in one recipe: packed, trained by weight, evaluated, and asked."""

import dataclasses
import json
from collections import Counter

import pyarrow as pa
import pytest

from models.sequence.tokenizer import ByteTokenizer
from operators.corpus.normalizers import normalize
from operators.documents.tasks import TASKS
from operators.errors import InputError
from operators.evaluate.ask import Ask
from operators.evaluate.transcribe import Transcribe
from operators.store.shards import PackShards
from pipelines.cli.use import transcribe
from pipelines.plan.output import Output
from pipelines.stages import plan_recipe
from pipelines.stages.notices import check_told
from pipelines.stages.score_tables import rates
from pipelines.stages.scoring import Scorer, score
from tests.golden import fingerprints

T = ByteTokenizer()
WEIGHTS = {"asr": 2, "asr_target": 1, "asr_gender": 1, "asr_order": 3, "asr_keyword": 1, "asr_language": 1}
TASKS_ASKED = (*WEIGHTS, "asr_context", "asr_formatted")
ROUNDS = 3


def instructed(recipe):
    """A recipe of all of them, whose speakers have two languages."""
    (manifest,) = recipe.corpus.manifests
    with open(manifest, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    with open(manifest, "w", encoding="utf-8") as file:
        file.writelines(
            json.dumps({**row, "language": "de" if row["speaker"] in ("s1", "s4", "s5") else "en"}) + "\n"
            for row in rows
        )
    return dataclasses.replace(
        recipe,
        casting=dataclasses.replace(recipe.casting, test_conversations=6),
        render=dataclasses.replace(recipe.render, stems="none", keep_audio=False),
        encode=dataclasses.replace(recipe.encode, stems=False),
        compose=dataclasses.replace(
            recipe.compose, tasks=TASKS_ASKED, window_s=9.0, overlap_s=0.0, empty_share=0.5, hotwords_from="rare"
        ),
        pack=dataclasses.replace(recipe.pack, capacity=1536, packer="single"),
        train=dataclasses.replace(
            recipe.train,
            mixture=(",".join(f"{name}={weight}" for name, weight in WEIGHTS.items()),),
            packs_per_step=sum(WEIGHTS.values()),
            steps=ROUNDS,
        ),
        evaluate=dataclasses.replace(recipe.evaluate, baselines=(), untrained=False),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The road, the component of every pack that was trained on, and what every document asked in evaluation."""
    drawn, whole = [], PackShards.__getitem__
    questions, answered = {}, Ask._answered

    def asked(self, documents):
        questions.setdefault(self.task, []).extend(T.show(one.question()[0].text_tokens.tolist()) for one in documents)
        return answered(self, documents)

    def recorded(self, index):
        spans = ((name, span) for name, spans in self.components.items() for span in spans)
        drawn.extend(name for name, span in spans if span.first <= index < span.first + span.size)
        return whole(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackShards, "__getitem__", recorded)
        patch.setattr(Ask, "_answered", asked)
        road = fingerprints.build(tmp_path_factory.mktemp("instructed"), instructed)
    return road, drawn, questions


@pytest.fixture(scope="module")
def road(made):
    return made[0]


@pytest.fixture(scope="module")
def metrics(road):
    return score(plan_recipe(road.recipe, road.output))


def test_all_six_instructions_are_drawn_by_their_weights_and_trained_on(made):
    road, drawn, _ = made
    assert Counter(drawn) == {name: ROUNDS * weight for name, weight in WEIGHTS.items()}
    packed = Counter(document["task"] for row in road.rows("packs") for document in row["documents"])
    assert set(packed) == set(TASKS_ASKED)
    folder = road.output.training(plan_recipe(road.recipe, road.output).training_key)
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == ROUNDS
    assert losses[-1] < losses[0]


def test_every_task_has_figures_of_its_own_and_one_for_each_instruction(road, metrics):
    found = metrics["trained"]["tasks"]
    assert set(found) == set(TASKS_ASKED)
    folder = road.output.evaluation(plan_recipe(road.recipe, road.output).evaluation_key)
    for task in ("asr_target", "asr_gender", "asr_order", "asr_keyword", "asr_language"):
        reference = json.loads((folder / f"{task}_reference.seglst.json").read_text())
        labels = {entry["instruction"] for entry in reference}
        rows = [row for row in found[task]["slices"]["rows"] if row[0] == "instruction"]
        assert {row[1] for row in rows} == (labels if len(labels) > 1 else set())
        words = sum(len(entry["words"].split()) for entry in reference)
        assert found[task]["measures"]["cpwer"]["base"] == words
        nobody = sum(not entry["words"] for entry in reference)
        if task != "asr_target":
            assert found[task]["measures"]["empty_accuracy"]["base"] == nobody
    assert sum(
        found[task]["measures"]["empty_accuracy"]["base"]
        for task in found
        if task in WEIGHTS and "empty_accuracy" in found[task]["measures"]
    )
    listed = found["asr_context"]["measures"]
    assert listed["bwer"]["base"] + listed["uwer"]["base"] == listed["cpwer"]["base"]
    assert listed["bwer"]["errors"] + listed["uwer"]["errors"] == listed["cpwer"]["errors"]
    logged = rates(metrics)
    assert {"trained.asr_order.cpwer", "trained.asr_context.uwer", "trained.asr_formatted.orthographic_wer"} <= set(
        logged
    )


def test_what_is_scored_is_what_was_asked(made, metrics):
    """Words of other conversations are drawn from the same ones when answers are made and when they are scored."""
    road, _, questions = made
    folder = road.output.evaluation(plan_recipe(road.recipe, road.output).evaluation_key)
    listed = [text.split("<instruction>")[1].split("<")[0] for text in questions["asr_context"]]
    reference = json.loads((folder / "asr_context_reference.seglst.json").read_text())
    assert {entry["hotwords"] for entry in reference} == set(listed)
    heard = {
        row["conversation_id"]: {w for turn in row["turns"] for w in turn["text_normalized"].split()}
        for row in road.rows("codes")
    }
    assert any(set(entry["hotwords"].split()) - heard[entry["recording_id"]] for entry in reference)


def test_a_task_that_the_test_split_cannot_be_asked_is_named(road, monkeypatch, tmp_path):
    """As where recorded conversations are tested on, of which no gender is told."""
    answers = Scorer._partitions

    def untold(self, which, task):
        found = []
        for codes, written in answers(self, which, task):
            rows = codes.to_pylist()
            for row in rows:
                row["turns"] = [{**turn, "gender": None} for turn in row["turns"]]
            found.append((pa.Table.from_pylist(rows, schema=codes.schema), written))
        return found

    monkeypatch.setattr(Scorer, "_partitions", untold)
    with pytest.raises(InputError, match=r"nothing in the test split can be asked by asr_gender: .* --evaluate.tasks"):
        Scorer(plan_recipe(road.recipe, road.output), tmp_path).checkpoint("trained", "asr_gender")


def test_formatted_text_is_scored_as_it_stands_besides(road, metrics):
    plan = plan_recipe(road.recipe, road.output)
    folder = plan.output.evaluation(plan.evaluation_key)
    reference = json.loads((folder / "asr_formatted_reference.seglst.json").read_text())
    assert any(entry["words"] != normalize(entry["words"]) for entry in reference)
    plain = [{**entry, "words": normalize(entry["words"])} for entry in reference]
    scorer = Scorer(plan, folder / "again")
    assert scorer._measured((reference, plain), ("wer",), "plain")["measures"]["wer"]["rate"] == 0
    as_written = scorer._orthographic((reference, plain), "plain")
    assert as_written["orthographic_wer"]["rate"] > 0
    assert as_written["orthographic_wer"]["row"][0] == "orthographic WER"
    assert scorer._orthographic((reference, reference), "same")["orthographic_wer"]["rate"] == 0


def test_a_recording_is_asked_each_of_the_six_and_with_hotwords(road, tmp_path, capsys, monkeypatch):
    checkpoint = road.output.training(plan_recipe(road.recipe, road.output).training_key)
    wav = next(road.output.folder.parent.glob("corpus/recorded/*.wav"))
    asked = (str(wav), "--checkpoint", str(checkpoint), "--max-tokens", "8", "--format", "seglst")
    words = tmp_path / "hotwords.txt"
    words.write_text("Oslo\nBergen, Oslo\n", encoding="utf-8")
    shown, answer = [], Transcribe.answer

    def recorded(self, prompts, **options):
        shown.extend(T.show(prompt.text_tokens.tolist()) for prompt in prompts)
        return answer(self, prompts, **options)

    monkeypatch.setattr(Transcribe, "answer", recorded)
    in_words = "<asr_instructed><instruction>"
    for option, prompt in {
        ("--ask", "all"): "<asr>",
        ("--ask", f"voice={wav}"): "<asr_target><instruction>voice<enrol><audio>",
        ("--ask", "gender=f"): f"{in_words}Transcribe only the female speakers.",
        ("--ask", "order=2"): f"{in_words}Transcribe only the second person to speak.",
        ("--ask", "keyword=one"): f'{in_words}Transcribe only the speakers who say "one".',
        ("--ask", "language=de"): f"{in_words}Transcribe only what is said in German.",
        ("--hotwords", str(words)): "<asr_context><instruction>oslo bergen",
        ("--task", "asr_formatted"): "<asr><instruction>formatted",
    }.items():
        transcribe([*asked, *option])
        assert isinstance(json.loads(capsys.readouterr().out), list)
        assert {one.replace("<21>", "<asr_instructed>") for one in shown} == {f"{prompt}<text>"}
        shown.clear()
    for option, said in (
        (("--ask", "age=3"), "is none of all, voice=FILE"),
        (("--ask", "all", "--task", "asr"), "--task and --ask ask different things"),
        (("--hotwords", str(tmp_path / "none")), "cannot be read"),
        (("--ask", f"voice={tmp_path / 'none.wav'}"), "cannot be read as audio"),
    ):
        with pytest.raises(InputError, match=said):
            transcribe([*asked, *option])
    words.write_text(" ?!\n", encoding="utf-8")
    with pytest.raises(InputError, match="has no words"):
        transcribe([*asked, "--hotwords", str(words)])


def without(folder, **changed):
    """Recipe, output and snapshots of a corpus that is indexed with other rows."""
    manifest, recorded = fingerprints.write_corpus(folder / "corpus")
    rows = [json.loads(line) | changed for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps({**row, "text": row["text"].lower().strip(".")}) + "\n" for row in rows))
    recipe = fingerprints.recipe_of(manifest, recorded)
    recipe = dataclasses.replace(recipe, corpus=dataclasses.replace(recipe.corpus, language=None))
    road = fingerprints.Road(recipe, Output(folder / "out"))
    fingerprints.index_corpus(road)
    return recipe, road.output, {name: road.output.dataset(name).latest() for name in ("utterances", "recordings")}


def test_a_task_about_what_the_corpus_does_not_tell_is_refused_with_the_field_and_the_way_out(road, tmp_path):
    snapshots = {name: road.output.dataset(name).latest() for name in ("utterances", "recordings")}
    check_told(road.recipe, road.output, snapshots)
    recipe, output, snapshots = without(tmp_path, gender=None)
    for task, said in (
        (
            "asr_gender",
            r"asr_gender needs the gender of utterances, which no row of the corpus tells: give field gender or sex",
        ),
        ("asr_language", r"asr_language needs the language .* field language, lang or locale .* or --corpus.language"),
        ("asr_formatted", r"asr_formatted needs the formatted text .* with case and punctuation"),
    ):
        assert TASKS[task].needs_told
        with pytest.raises(InputError, match=said):
            check_told(
                dataclasses.replace(recipe, compose=dataclasses.replace(recipe.compose, tasks=("asr", task))),
                output,
                snapshots,
            )
    # A checkpoint can be asked for formatted text of any corpus; its questions about gender need one that tells it.
    for task in ("asr_formatted", "asr_gender"):
        given = dataclasses.replace(recipe, compose=dataclasses.replace(recipe.compose, tasks=(task,)))
        if task == "asr_formatted":
            check_told(given, output, snapshots, trains=False)
        else:
            with pytest.raises(InputError, match="needs the gender"):
                check_told(given, output, snapshots, trains=False)
    check_told(
        dataclasses.replace(recipe, compose=dataclasses.replace(recipe.compose, tasks=("asr", "asr_order"))),
        output,
        snapshots,
    )
