"""Instructions in words: who is asked for, in which words, and how often it is nobody."""

import random
import re
from dataclasses import replace

import pytest

from models.sequence.tokenizer import ByteTokenizer
from operators.digest import digest
from operators.documents.compose import Compose
from operators.documents.hotwords import WordCounts
from operators.documents.tasks import TASKS, token_names
from operators.documents.tasks.instructed.asr_order import ordinal
from operators.documents.tasks.instructed.instructed import Instructed
from operators.documents.windows import Window
from operators.errors import UnusableRowError
from operators.evaluate.ask import documents as questions
from tests.operators.documents.support import CODEC, codes_table, row_of

T = ByteTokenizer()
FAMILY = tuple(name for name, task in TASKS.items() if isinstance(task, Instructed))
PEOPLE = {"ann": ("f", "en"), "bob": ("M", "de-AT"), "cleo": ("female", "en"), "dan": ("male", "de")}
WORDS = ("so", "weather", "morning", "budget", "yes", "zürich", "pancakes", "tomorrow", "we")
NAMES = {"f": "female", "female": "female", "M": "male", "male": "male", "en": "English", "de": "German"}
ELSEWHERE = WordCounts.of([[{"text_normalized": "zeppelin cathedral weather", "language": "fr"}]])


def talk(number):
    """A conversation of random talkers, words and times."""
    draw = random.Random(number)
    people = draw.sample(sorted(PEOPLE), draw.randint(1, 4))
    turns, start = [], 0
    for _ in range(draw.randint(2, 7)):
        text = " ".join(draw.choices(WORDS, k=draw.randint(1, 4)))
        turns.append((start, draw.randint(20, 60), draw.choice(people), text))
        start += draw.randint(5, 50)
    return told(row_of(turns, start + 100, f"c{number}", number))


def told(row):
    for turn in row["turns"]:
        turn["gender"], turn["language"] = PEOPLE[turn["speaker"]]
    return row


TALKS = [talk(number) for number in range(150)]


def made(task, rows=TALKS, words=ELSEWHERE, **options):
    """Conversation, its one document's instruction as (wording, value), and the turns of its answer."""
    compose = Compose(tasks=(task,), silence_share=0.0, **options)
    return [
        (row, *asked(task, document["text_tokens"]), T.turns(answer(document["text_tokens"])))
        for row in rows
        for document in compose.documents(row, CODEC, words=words)
    ]


def answer(tokens):
    return tokens[tokens.index(T.TEXT) + 1 :]


def asked(task, tokens):
    """The number of the wording and the value of an instruction."""
    assert tokens[:2] == [T.ASR_INSTRUCTED, T.INSTRUCTION]
    text = T.decode(tokens[2 : tokens.index(T.TEXT)])
    for number, wording in enumerate(TASKS[task].wordings):
        found = re.fullmatch(re.escape(wording).replace(r"\{\}", "(.+)"), text)
        if found:
            return number, found[1]
    raise AssertionError(f"{text!r} is no wording of {task}")


def wanted(task, row, value):
    """Who is asked for, found another way: from every talker's own facts."""
    facts = {
        "asr_gender": lambda who: NAMES[PEOPLE[who][0]],
        "asr_language": lambda who: NAMES[PEOPLE[who][1].split("-")[0]],
        "asr_order": lambda who: ordinal(1 + row["speakers"].index(who)),
    }
    said = {
        who: {w for t in row["turns"] if t["speaker"] == who for w in t["text"].casefold().strip("!").split()}
        for who in row["speakers"]
    }
    meant = [
        who for who in row["speakers"] if (value in said[who] if task == "asr_keyword" else facts[task](who) == value)
    ]
    return [
        (f"s{row['speakers'].index(turn['speaker'])}", turn["text_normalized"])
        for turn in row["turns"]
        if turn["speaker"] in meant
    ]


@pytest.mark.parametrize("task", FAMILY)
def test_the_answer_is_what_is_said_by_those_who_are_asked_for_and_by_nobody_else(task):
    found = made(task)
    assert len(found) > 120
    for row, _, value, turns in found:
        assert turns == wanted(task, row, value), (row["conversation_id"], value)
    assert 3 < sum(not turns for *_, turns in found) < sum(bool(turns) for *_, turns in found)
    assert any(len(turns) < len(row["turns"]) for row, _, _, turns in found if turns)


@pytest.mark.parametrize("task", FAMILY)
def test_questions_about_nobody_are_a_share_that_can_be_switched_off(task):
    """All windows allow them by order and by keyword; by gender and language those do in which one is missing."""
    always = [not turns for *_, turns in made(task, empty_share=1.0)]
    assert all(always) == (task != "asr_gender")
    assert not any(not turns for *_, turns in made(task, empty_share=0.0))
    share = sum(not turns for *_, turns in made(task, empty_share=0.4)) / sum(always)
    assert 0.27 < share < 0.53


@pytest.mark.parametrize("task", FAMILY)
def test_training_draws_among_wordings_and_evaluation_asks_the_same_in_the_first(task):
    trained = made(task, words=None)
    assert {wording for _, wording, *_ in trained} == set(range(len(TASKS[task].wordings)))
    assert len({value for *_, value, _ in trained}) > 1
    compose = Compose(tasks=(task,))
    evaluated = [
        (row, *asked(task, document.text_tokens), T.turns(answer(document.text_tokens)))
        for row in TALKS
        for _, document in questions(row, codes_table(row).schema, compose)
    ]
    assert {wording for _, wording, *_ in evaluated} == {0}
    assert [(value, turns) for _, _, value, turns in evaluated] == [(value, turns) for _, _, value, turns in trained]


def test_keywords_tell_talkers_apart_and_those_that_nobody_says_are_other_conversations():
    for row, _, word, turns in made("asr_keyword"):
        assert len(word) >= 5
        if not turns:
            assert word in ("zeppelin", "cathedral", "weather")
        telling = {w for t in row["turns"] for w in t["text_normalized"].split() if len(w) >= 5}
        telling = {
            w
            for w in telling
            if len({t["speaker"] for t in row["turns"] if w in t["text_normalized"].split()}) < len(row["speakers"])
        }
        assert not turns or not telling or word in telling
    # A language that nobody speaks here is one of the corpus, where it has others.
    values = {value for *_, value, turns in made("asr_language") if not turns}
    assert "French" in values
    assert values <= {"French", "English", "German"}


def scene_of(task, row, window, **options):
    compose = Compose(tasks=(task,), **options)
    return compose.scene(row, window, CODEC, task, "d", ELSEWHERE)


def test_talkers_are_counted_by_what_is_heard_also_of_turns_carried_over():
    row = told(row_of(((0, 40, "ann", "good morning"), (50, 40, "bob", "hello there"), (100, 40, "cleo", "yes")), 160))
    first, second, third = row["turns"]
    window = Window(0, 160, (first,), (second, third))
    found = {
        q.value: [t["speaker"] for t in q.turns]
        for q in TASKS["asr_order"].answered(scene_of("asr_order", row, window))
    }
    assert found == {"2": ["bob"], "3": ["cleo"]}  # what ann said is in the prompt
    assert [q.value for q in TASKS["asr_order"].unanswered(scene_of("asr_order", row, window))] == ["4", "5"]


def test_where_words_are_not_known_nothing_is_asked_that_they_decide():
    row = told(row_of(((0, 40, "ann", "good morning"), (50, 40, "bob", "")), 120))
    (window,) = Compose().windows(row, CODEC)
    scene = scene_of("asr_keyword", row, window)
    assert [q.value for q in TASKS["asr_keyword"].answered(scene)] == ["morning"]
    assert TASKS["asr_keyword"].unanswered(scene) == []  # bob may have said it
    # bob is the second whom one hears, but what he says is not known.
    assert [q.value for q in TASKS["asr_order"].answered(scene)] == ["1"]
    silent = replace(window, turns=(row["turns"][1],))
    assert not list(TASKS["asr_order"].documents(replace(scene, window=silent)))
    with pytest.raises(UnusableRowError, match="has no text to transcribe"):
        list(TASKS["asr_order"].documents(replace(scene, row={**row, "turns": [row["turns"][1]]}, window=silent)))


@pytest.mark.parametrize(("task", "field"), [("asr_gender", "gender"), ("asr_language", "language")])
def test_a_window_with_a_talker_of_whom_it_is_not_told_cannot_be_used(task, field):
    row = talk(3)
    row["turns"][1] |= {field: None}
    with pytest.raises(UnusableRowError, match=rf"turn u1 has no {field}, which task {task} needs"):
        list(Compose(tasks=(task,)).documents(row, CODEC))


def test_the_family_shares_one_spare_token():
    assert len(FAMILY) == 4
    assert {TASKS[name].token for name in FAMILY} == {ByteTokenizer.ASR_INSTRUCTED}
    assert token_names()[ByteTokenizer.ASR_INSTRUCTED] == "asr_instructed"
    assert token_names()[ByteTokenizer.ASR] == "asr"


def test_documents_change_only_with_the_version_of_compose():
    """The golden recipe trains the tasks that came before."""
    tasks = (*FAMILY, "asr_formatted")
    shown = [
        [d["document_id"], d["text_tokens"]] for row in TALKS[:20] for d in Compose(tasks=tasks).documents(row, CODEC)
    ]
    assert (Compose.version, digest(shown)[:16]) == ("8", "869c0b1bf44c0242")
