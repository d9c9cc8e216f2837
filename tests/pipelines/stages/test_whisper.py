"""The whole road from a small Whisper: features, packs, training and hypotheses of its two ways to be asked."""

from dataclasses import replace

import pytest

from models.config.header import read_header, weights_digest
from models.config.intact import sealed
from models.training.checkpoint import load
from operators.documents.compose import codec_of
from operators.evaluate.talkers import TranscribeTalkers
from pipelines.plan.transcriber import transcriber_of
from pipelines.recipes.whisper import from_whisper
from pipelines.upkeep.card import write_card
from tests.golden.fingerprints import build
from tests.models.whisper_support import save_whisper

pytest.importorskip("transformers", reason="transformers (extra `codecs`) is not installed")


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    save_whisper(folder / "small")

    def change(recipe):
        tasks = ("asr", "asr_timed", "asr_talker")
        compose = replace(recipe.compose, tasks=tasks, window_s=1.5, overlap_s=0.0)
        recipe = replace(recipe, converse=replace(recipe.converse, max_duration_s=4.0), compose=compose)
        made = from_whisper(recipe, str(folder / "small"))
        return replace(
            made,
            render=replace(made.render, stems="none", keep_audio=False),
            encode=replace(made.encode, stems=False),
            model=replace(made.model, encoder_tail_s=0.2, diarization="frames"),
            train=replace(made.train, mixture=()),
        )

    return build(folder, change)


def test_packs_hold_frames_and_their_tail_and_a_document_for_each_talker(road):
    documents = [d["document_id"] for row in road.rows("packs") for d in row["documents"]]
    assert len(set(documents)) == len(documents)
    of_talkers = [d for d in documents if "/asr_talker/" in d]
    assert {d.rsplit("/", 1)[1] for d in of_talkers} == {"0", "1"}
    assert road.rows("features")


def test_a_trained_checkpoint_answers_both_ways(road):
    written = road.rows("hypotheses")
    assert len(written) == 2 * 2 * 3  # conversations, checkpoints and tasks
    assert any(row["num_tokens"] for row in written)


def test_each_talker_of_each_window_is_asked_and_named_as_in_the_diarization(road, monkeypatch):
    (folder,) = {p.parent for p in road.output.folder.glob("checkpoints/*/step-000002/checkpoint.json")}
    transcribe = transcriber_of(road.recipe, str(folder), "asr")
    operator = TranscribeTalkers(transcribe=transcribe)
    operator.check_task()
    codes = road.output.dataset("codes").read()
    codec = codec_of(codes.schema)
    row = codes.slice(0, 1)
    asked = []

    def answer(self, prompts, *, are_free):
        asked.extend(prompts)
        return [self.tokenizer.encode(f"p{number}") for number, _ in enumerate(prompts)]

    monkeypatch.setattr(type(transcribe), "answer", answer)
    (made,) = operator(row).to_pylist()
    (given,) = row.to_pylist()
    pieces = operator._pieces(given, codec)
    wanted = [
        (number, speaker)
        for number, piece in enumerate(pieces)
        for speaker in dict.fromkeys(
            turn["speaker"]
            for turn in sorted(given["turns"], key=lambda turn: turn["start_frame"])
            if turn["start_frame"] < piece.end and turn["start_frame"] + turn["num_frames"] > piece.start
        )
    ]
    assert [(turn["window"], turn["speaker"]) for turn in made["turns"]] == wanted
    assert len({speaker for _, speaker in wanted}) == 2
    for prompt in asked:
        assert len(prompt.talker_spans)
        assert prompt.text_tokens[0] == transcribe.tokenizer.ASR_TALKER


def test_a_first_pass_of_the_same_checkpoint_can_tell_who_speaks(road):
    (folder,) = {p.parent for p in road.output.folder.glob("checkpoints/*/step-000002/checkpoint.json")}
    transcribe = transcriber_of(road.recipe, str(folder), "asr")
    operator = TranscribeTalkers(transcribe=transcribe, diarization="model")
    operator.check_task()
    codes = road.output.dataset("codes").read()
    made = operator(codes).to_pylist()
    assert [row["conversation_id"] for row in made] == codes["conversation_id"].to_pylist()
    model, _, header = load(folder)
    assert header.shape.decoder == "whisper"
    assert model.told is not None


def test_an_exported_folder_has_a_card_with_data_figures_and_lineage(road, tmp_path):
    (folder,) = {p.parent for p in road.output.folder.glob("checkpoints/*/step-000002/checkpoint.json")}
    (road.output.folder / "recipe.json").write_text("{}")  # as a run leaves one
    metrics = {
        "trained": {
            "checkpoint": str(folder),
            "tasks": {"asr": {"measures": {"cpwer": {"row": ["cpWER", "25.0%", "20.0% to 30.0%", "96", "1 / 2 / 3"]}}}},
        },
        "headline": "cpwer",
        "task": "asr",
    }
    path = road.output.evaluation("made") / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(sealed(metrics))
    step, header = read_header(folder)
    write_card(folder, step, header, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "| asr | cpWER | 25.0% | 20.0% to 30.0% | 96 | 1 / 2 / 3 |" in card
    assert "Licences of the recordings: CC0." in card
    assert weights_digest(folder)[:32] in card
    assert "license_name: CC0" in card
