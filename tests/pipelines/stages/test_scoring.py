"""Scores of an evaluation: baselines beside checkpoints, slices by what is known of conversations, pages with sound."""

import dataclasses
import json

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import soundfile

from models.training.checkpoint import load
from operators.errors import InputError
from operators.evaluate import segments
from operators.evaluate.judge import chosen
from operators.schema import CODES, CONVERSATIONS
from operators.scoring.result import Conditions
from operators.scoring.score import score as measure_scores
from pipelines.plan.output import Output
from pipelines.plan.transcriber import judge_of, judged_task, transcriber_of, validation_codes
from pipelines.stages import plan_recipe
from pipelines.stages.columns import conversation_columns
from pipelines.stages.score_tables import rates
from pipelines.stages.scoring import score, why_scored_again
from tests.golden import fingerprints


def evaluated(recipe):
    """A recipe of one task, whose utterances say the same sentences on both sides of the split."""
    (manifest,) = recipe.corpus.manifests
    rows = []
    with open(manifest, encoding="utf-8") as file:
        for row in map(json.loads, file):
            del row["words"]
            rows.append({**row, "text": f"the dog ran to river {row['position']}", "accent": f"of {row['speaker']}"})
    with open(manifest, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    compose = dataclasses.replace(recipe.compose, tasks=("asr_timed",))
    slices = ("overlap", "gender", "accent", "text", "snr_db", "room", "weather")
    return dataclasses.replace(
        recipe,
        casting=dataclasses.replace(
            recipe.casting,
            test_conversations=4,
            validation_conversations=3,
            validation_speakers=0.4,
            shared_text="allow",
        ),
        render=dataclasses.replace(recipe.render, stems="none"),
        encode=dataclasses.replace(recipe.encode, stems=False),
        compose=compose,
        train=dataclasses.replace(recipe.train, mixture=()),
        evaluate=dataclasses.replace(recipe.evaluate, recognizers=("pocketsphinx",), slices=slices),
    )


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    pytest.importorskip("pocketsphinx")
    return fingerprints.build(tmp_path_factory.mktemp("scored"), evaluated)


def of(road):
    return plan_recipe(road.recipe, road.output)


@pytest.fixture(scope="module")
def metrics(road):
    return score(of(road))


def test_baselines_and_recognizers_stand_beside_the_checkpoints(road, metrics):
    names = ["no-speakers", "tokenizer", "pocketsphinx.segments", "pocketsphinx.mixture"]
    assert list(metrics["baselines"]) == names
    # Bytes give back every word, and all words by one speaker are wrong by their speakers alone.
    found = {name: {m: one["rate"] for m, one in metrics["baselines"][name]["measures"].items()} for name in names}
    assert found["tokenizer"]["cpwer"] == 0
    assert found["no-speakers"]["wer"] == 0 < found["no-speakers"]["cpwer"]
    assert found["pocketsphinx.segments"].keys() == {"cpwer", "wer", "cer"}
    # Humming is no English: whatever is heard of it, the words are wrong, and every one is counted.
    words = metrics["trained"]["tasks"]["asr_timed"]["measures"]["cpwer"]["base"]
    assert {one["measures"]["cpwer"]["base"] for one in metrics["baselines"].values()} == {words}
    assert found["pocketsphinx.segments"]["cpwer"] > 0.5
    # MLflow is given the same figures.
    logged = rates(metrics)
    assert logged["pocketsphinx.mixture.cpwer"] == found["pocketsphinx.mixture"]["cpwer"]
    assert logged["no-speakers.wer"] == 0


def test_a_recognizer_hears_what_was_encoded(road):
    """Its mixtures are rendered anew: the conversations are those of the codes, the turns those of the reference."""
    plan, output = of(road), road.output
    stage = plan.stage("hypotheses")
    codes = {row["conversation_id"]: row for row in road.rows("codes")}
    recognized = [one for one in stage.partitions if one.partition_id.startswith("pocketsphinx")]
    assert len(recognized) == 2 * sum(one.partition_id.startswith("test-") for one in plan.stage("codes").partitions)
    for partition in recognized:
        dataset = output.dataset("hypotheses")
        for row in dataset.open(dataset.committed(partition)).read_all().to_pylist():
            turns = codes[row["conversation_id"]]["turns"]
            speakers = {turn["speaker"] for turn in turns} if "segments" in partition.partition_id else {"all"}
            assert {turn["speaker"] for turn in row["turns"]} <= speakers


def test_conversations_are_sliced_by_what_is_known_of_them(road, metrics):
    header, rows = (metrics["trained"]["tasks"]["asr_timed"]["slices"][name] for name in ("header", "rows"))
    by_column = {}
    for row in rows:
        by_column.setdefault(row[header.index("column")], []).append(row)
    # All conversations have a room and sentences that were trained on: one value slices nothing.
    assert set(by_column) <= {"overlap", "gender", "accent", "snr_db", "num_speakers"}
    assert metrics["unknown_slices"] == ["weather"]


def test_what_is_known_of_a_conversation_is_what_it_was_made_with(road):
    plan = of(road)
    codes = [row for row in road.rows("codes") if row["split"] == "test"]
    made = {row["conversation_id"]: row for row in road.rows("conversations")}
    found = conversation_columns(plan, pa.Table.from_pylist(codes, schema=CODES))
    assert found.keys() == {row["conversation_id"] for row in codes}
    for name, columns in found.items():
        row = made[name]
        assert columns["room"] == "yes"
        assert columns["t60_s"] == pytest.approx(row["room"]["t60_s"], abs=1e-3)
        assert columns["snr_db"] == pytest.approx(row["snr_db"], abs=1e-2)
        assert 0.1 < columns["distance_m"] < 10
        assert columns["gender"] == "+".join(sorted({turn["gender"] for turn in row["turns"]}))
        assert columns["accent"] == "+".join(sorted({f"of {turn['speaker'].split('@')[0]}" for turn in row["turns"]}))
        assert columns["text"] == "seen"


def test_text_that_was_never_trained_on_is_unseen(road, monkeypatch):
    from pipelines.stages import columns

    plan, real = of(road), columns._parts

    def without_training_text(plan, start, names):
        parts = real(plan, start, names)
        if start != "train-":
            return parts
        rows = [row for part in parts for row in part.to_pylist()]
        for row in rows:
            for turn in row["turns"]:
                turn |= {"text": "nobody said that sentence ever", "text_normalized": "nobody said that sentence ever"}
        return [pa.Table.from_pylist(rows, schema=pa.schema([CONVERSATIONS.field("turns")]))]

    monkeypatch.setattr(columns, "_parts", without_training_text)
    codes = [row for row in road.rows("codes") if row["split"] == "test"]
    found = conversation_columns(plan, pa.Table.from_pylist(codes, schema=CODES))
    assert {one["text"] for one in found.values()} == {"unseen"}


def test_the_worst_conversations_can_be_heard(road, metrics):
    folder = road.output.evaluation(of(road).evaluation_key)
    page = (folder / "trained_asr_timed_worst.html").read_text()
    kept = {row["conversation_id"]: row["num_samples"] for row in road.rows("conversations") if row["split"] == "test"}
    assert page.count("<audio ") == min(20, len(kept))
    for name, num_samples in kept.items():
        assert f'src="sounds/{name}.flac"' in page
        assert soundfile.info(folder / "sounds" / f"{name}.flac").frames == num_samples


def test_scored_again_every_file_has_the_same_bytes(road, metrics):
    folder = road.output.evaluation(of(road).evaluation_key)
    before = {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    assert len(before) > 20
    for path in before:
        (folder / path).unlink()
    score(of(road))
    assert {path: (folder / path).read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"normalizer": "none"}, "normalizer basic -> none"),
        ({"slices": ("overlap",)}, "slices overlap gender"),
        ({"baselines": ()}, "baselines no-speakers tokenizer -> "),
    ],
)
def test_what_makes_scores_stale_is_said(road, metrics, change, why):
    assert why_scored_again(of(road)) == ""
    recipe = dataclasses.replace(road.recipe, evaluate=dataclasses.replace(road.recipe.evaluate, **change))
    assert why in why_scored_again(plan_recipe(recipe, Output(road.output.folder)))


def test_another_decoder_or_recognizer_makes_hypotheses_stale(road):
    for change in ({"max_tokens": 5}, {"constrain": False}, {"recognizers": ()}):
        recipe = dataclasses.replace(road.recipe, evaluate=dataclasses.replace(road.recipe.evaluate, **change))
        plan = plan_recipe(recipe, road.output)
        assert plan.evaluation_key != of(road).evaluation_key
        stale = {one.partition_id for one in plan.stage("hypotheses").stale}
        assert not any(name.startswith("pocketsphinx") for name in stale)
        assert bool(stale) == ("recognizers" not in change)


# ------------------------------------------------------------------------------------------------------ while training


def test_cpwer_while_training_is_that_of_an_evaluation_whatever_the_ranks(road):
    train = dataclasses.replace(road.recipe.train, validate_conversations=2)
    recipe, plan = dataclasses.replace(road.recipe, train=train), of(road)
    refs = validation_codes(plan.stage("codes").partitions)
    codes, path = road.output.dataset("codes"), plan.last_checkpoint()
    model = load(path)[0].eval()

    def errors(rank, ranks):
        first = str(path.with_name("step-000000"))
        return judge_of(recipe, codes, refs, first, rank, ranks, "cpu")(model)

    whole = errors(0, 1)
    assert tuple(map(sum, zip(*(errors(rank, 3) for rank in range(3)), strict=True))) == whole
    # By the road of `hubbub evaluate`: the checkpoint's own weights, and scores of what they write.
    held_out = [row for row in road.rows("codes") if row["split"] == "validation"]
    assert len(held_out) == 3
    names = chosen([row["conversation_id"] for row in held_out], 2)
    (one,) = refs
    table = codes.open(codes.committed_by_key(one.partition_id, one.key)).read_all()
    table = table.filter(pc.is_in(table["conversation_id"], value_set=pa.array(names)))
    written = transcriber_of(recipe, str(path), "asr_timed")(table)
    reference = segments.reference_segments(table, recipe.encode.spec.frame_rate_hz)
    hypothesis = segments.hypothesis_segments(written, recipe.encode.spec.frame_rate_hz, is_timed=True)
    figure = measure_scores(reference, hypothesis, Conditions(measures=("cpwer",))).figure("cpwer")
    assert whole == (figure.counts["errors"], figure.base)
    assert whole[1] > 0


def test_only_tasks_that_transcribe_conversations_can_be_judged(road):
    compose = dataclasses.replace(road.recipe.compose, tasks=("continue",))
    with pytest.raises(InputError, match=r"no task of compose\.tasks transcribes"):
        judged_task(dataclasses.replace(road.recipe, compose=compose))
    assert judged_task(road.recipe) == "asr_timed"
    assert judge_of(road.recipe, road.output.dataset("codes"), (), "", 0, 1, "cpu") is None
