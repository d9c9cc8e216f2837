"""Tasks whose questions come from the truth: each document is asked its own question, and judged by its own measure."""

import numpy as np
import pytest
import torch

from models.layouts import make_layout
from models.sequence.batch import collate
from models.sequence.documents import GridSpec
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.likelihood import negative_log_likelihoods
from operators.documents.compose import Compose
from operators.documents.tasks import EVALUATED, TASKS
from operators.errors import InputError
from operators.evaluate.ask import Ask, asked_words, documents, reference_answers
from operators.evaluate.segments import hypothesis_segments
from operators.scoring.result import Conditions
from operators.scoring.score import score
from tests.operators.documents.support import CODEC, codes_table, row_of
from tests.operators.evaluate.perfect import perfect

T = ByteTokenizer()
TURNS = (
    (0, 60, "ann", "we begin the meeting now"),
    (50, 60, "bob", "good morning to everyone"),
    (300, 60, "carl", "sorry i am late"),
    (370, 50, "bob", "never mind the train"),
)
ASKED = tuple(name for name, task in TASKS.items() if task.judged_by in ("speakers", "utterances"))


def conversations():
    return codes_table(row_of(TURNS, 480, words=True), row_of(TURNS[:2], 120, "c1", words=True))


def answers(codes, compose, given):
    """Hypotheses of a stand-in that gives these answers, in the order of the documents."""
    stand_in = perfect({"tasks": compose.tasks})
    object.__setattr__(stand_in, "answer", lambda prompts, are_free: [given.pop(0) for _ in prompts])
    return Ask(transcribe=stand_in, compose=compose)(codes)


def errors(codes, made, compose, measure):
    reference = reference_answers(codes, compose)
    hypothesis = hypothesis_segments(made, CODEC.frame_rate_hz, is_timed=False, apart=True)
    return score(reference, hypothesis, Conditions(measures=(measure,))).figure(measure).counts["errors"]


@pytest.mark.parametrize("task", ASKED)
def test_every_document_is_asked_its_own_question_and_the_targets_score_zero(task):
    codes, compose = conversations(), Compose(tasks=(task,), window_s=5.0, silence_share=0.0)
    measure = "cpwer" if TASKS[task].judged_by == "speakers" else "orcwer"
    made = [document for row in codes.to_pylist() for _, document in documents(row, codes.schema, compose)]
    targets = [document.question()[1] for document in made]
    for document, target in zip(made, targets, strict=True):
        prompt = document.question()[0]
        assert prompt.text_tokens[0] == TASKS[task].token
        assert [*prompt.text_tokens, *target] == document.text_tokens
        assert target[-1] == ByteTokenizer.END
    assert errors(codes, answers(codes, compose, list(targets)), compose, measure) == 0
    assert errors(codes, answers(codes, compose, [[] for _ in targets]), compose, measure) > 5


def test_a_task_that_the_model_never_saw_is_an_error():
    stand_in = perfect({"tasks": ("asr",)})
    for task in ("asr_target", "continue"):
        with pytest.raises(InputError, match=f"was trained on asr, never on {task}"):
            Ask(transcribe=stand_in, compose=Compose(tasks=(task,))).check_task()
    with pytest.raises(InputError, match="never on asr_timed"):
        perfect({"tasks": ("asr",)}, task="asr_timed").check_task()


def test_every_task_is_judged_somehow_and_only_text_is_judged_by_words():
    assert set(EVALUATED) == {"asr", "asr_timed", "asr_formatted"}
    for name, task in TASKS.items():
        assert task.judged_by == "likelihood" or not task.predicts_audio, name


def test_the_likelihood_of_documents_is_the_loss_that_training_sums(make_model):
    layout = make_layout("parallel", CODEC.num_codebooks, CODEC.codebook_size, 1)
    grid = GridSpec(layout, CODEC.num_codebooks, CODEC.codebook_size, CODEC.bits)
    codes, compose = conversations(), Compose(tasks=("continue",), window_s=5.0, prompt_s=0.5)
    packs = [d.whole() for row in codes.to_pylist() for _, d in documents(row, codes.schema, compose)]
    model = make_model(grid)
    found = negative_log_likelihoods(model, packs, grid)
    with torch.no_grad():
        together = model(collate(packs, grid))
    assert len(found) == 4
    assert np.isclose(sum(one for one, _ in found), float(together.text_total + together.audio_total), rtol=1e-5)
    assert np.isclose(sum(one for _, one in found), float(together.text_weight + together.audio_weight))


@pytest.fixture
def make_model():
    from models.config.shape import Shape, Vocabulary
    from models.speech_lm.model import SpeechLM

    def make(grid):
        shape = Shape(dim=32, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=64)
        vocabulary = Vocabulary(
            text_size=ByteTokenizer().vocab_size,
            num_streams=grid.layout.num_streams,
            codebook_size=grid.layout.vocab_size,
            ordinal=False,
        )
        return SpeechLM(shape, vocabulary).initialize(0).eval()

    return make


FAMILY = ("asr_gender", "asr_order", "asr_keyword", "asr_language")


def told():
    """Conversations of two women and a man, of whom one speaks another language."""
    codes = conversations().to_pylist()
    for row in codes:
        for turn in row["turns"]:
            turn["gender"], turn["language"] = {"ann": ("f", "en"), "bob": ("m", "de")}.get(
                turn["speaker"], ("f", "en")
            )
    return codes_table(*codes)


@pytest.mark.parametrize("task", FAMILY)
def test_answers_are_scored_apart_by_instruction_and_empty_ones_by_whether_they_are_empty(task):
    codes = told()
    compose = Compose(tasks=(task,), window_s=5.0, empty_share=0.5, seed=4)
    words = asked_words([codes], compose)
    made = [document for row in codes.to_pylist() for _, document in documents(row, codes.schema, compose, words)]
    targets = [document.question()[1] for document in made]
    reference = reference_answers(codes, compose, words)
    nobody = {entry["session_id"] for entry in reference if entry["instruction"].endswith(", nobody")}
    assert nobody == {entry["session_id"] for entry in reference if not entry["words"]}
    assert 0 < len(nobody) < len(made)

    def scores(given):
        stand_in = perfect({"tasks": compose.tasks})
        object.__setattr__(stand_in, "answer", lambda prompts, are_free: [given.pop(0) for _ in prompts])
        hypotheses = Ask(transcribe=stand_in, compose=compose, words=words)(codes)
        hypothesis = hypothesis_segments(hypotheses, CODEC.frame_rate_hz, is_timed=False, apart=True)
        conditions = Conditions(measures=("cpwer", "wer", *TASKS[task].also_measured))
        return score(reference, hypothesis, conditions, by=("instruction",))

    right = scores(list(targets))
    assert [right.figure(name).value for name in ("cpwer", "wer", "empty_accuracy")] == [0, 0, 1]
    assert right.figure("empty_accuracy").base == len(nobody)
    assert set(right.slices["instruction"]) == {entry["instruction"] for entry in reference}
    # Whoever never leaves an answer empty is wrong wherever nobody was meant, and only there.
    talkative = [T.encode("yes") if target == [ByteTokenizer.END] else target for target in targets]
    wrong = scores(talkative)
    assert wrong.figure("empty_accuracy").value == 0
    assert wrong.figure("wer").counts["insertions"] == len(nobody) == wrong.figure("wer").counts["errors"]
    # Whoever always does misses every word that was asked for.
    silent = scores([[ByteTokenizer.END] for _ in targets])
    assert (silent.figure("empty_accuracy").value, silent.figure("cpwer").value) == (1, 1)


def test_errors_of_hotwords_are_counted_apart_and_with_the_others_make_up_all():
    codes, compose = conversations(), Compose(tasks=("asr_context",), window_s=5.0)
    made = [document for row in codes.to_pylist() for _, document in documents(row, codes.schema, compose)]
    reference = reference_answers(codes, compose)
    listed = [set(document.asked["hotwords"].split()) for document in made]
    said = [" ".join(text for _, text in T.turns(document.question()[1])).split() for document in made]
    hits = sum(word in own for own, words in zip(listed, said, strict=True) for word in words)
    assert hits

    def figures(change):
        given = []
        for document, own in zip(made, listed, strict=True):
            answer = []
            for tag, text in T.turns(document.question()[1]):
                answer += [T.speaker(int(tag[1:])), *T.encode(" ".join(change(word, own) for word in text.split()))]
            given.append([*answer, T.END])
        hypothesis = hypothesis_segments(
            answers(codes, compose, given), CODEC.frame_rate_hz, is_timed=False, apart=True
        )
        found = score(reference, hypothesis, Conditions(measures=("cpwer", "bwer", "uwer")))
        return {name: found.figure(name).counts["errors"] for name in ("cpwer", "bwer", "uwer")}, found.figure(
            "bwer"
        ).base

    assert figures(lambda word, own: word) == ({"cpwer": 0, "bwer": 0, "uwer": 0}, hits)
    missed, _ = figures(lambda word, own: "xx" if word in own else word)
    assert missed == {"cpwer": hits, "bwer": hits, "uwer": 0}
    others, _ = figures(lambda word, own: word if word in own else "xx")
    assert others["cpwer"] == others["uwer"] > 0 == others["bwer"]
