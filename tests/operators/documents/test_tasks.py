"""Tasks: one set of codes makes every task in every layout, and each document follows its template."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from models.codecs.codec import pack_codes, unpack_codes
from models.layouts import LAYOUTS, make_layout
from models.sequence.batch import collate
from models.sequence.documents import AUDIO, TEXT, GridSpec
from models.sequence.grammar import ArrivalGrammar
from models.sequence.tokenizer import ByteTokenizer, FileTokenizer, load_tokenizer
from operators.documents.compose import Compose
from operators.documents.scene import without_repeats
from operators.documents.tasks import TASKS, transcription
from operators.errors import InputError, UnusableRowError
from tests.models.support import packed
from tests.operators.documents.support import CODEC, codes_table

T = ByteTokenizer()
TURNS = (  # start, frames, speaker, text, words
    (0, 40, "ann", "good morning", ((0, 15, "good"), (15, 25, "morning"))),
    (30, 30, "bob", "hello there", ((30, 12, "hello"), (45, 15, "there"))),
    (70, 30, "ann", "how was that", ((70, 8, "how"), (78, 8, "was"), (86, 14, "that"))),
    (110, 40, "bob", "wonderful weather", ((110, 20, "wonderful"), (130, 20, "weather"))),
)


def conversation(turns=TURNS, num_frames=160, name="c0", stems=True, words=True, seed=0, enrolments=True):
    rng = np.random.default_rng(seed)
    speakers = list(dict.fromkeys(turn[2] for turn in turns))
    return {
        "conversation_id": name,
        "origin": "simulated",
        "split": "train",
        "num_samples": num_frames * 400,
        "num_frames": num_frames,
        "codes": pack_codes(rng.integers(0, 16, (4, num_frames)), 4),
        "speakers": speakers,
        "turns": [
            {
                "utterance_id": f"u{i}",
                "speaker": who,
                "start_frame": start,
                "num_frames": length,
                "text": f"{text.title()}!",
                "text_normalized": text,
                "language": "en",
                "gender": {"ann": "f", "bob": "m"}.get(who),
                "words": [{"word": w, "start_frame": s, "num_frames": n} for s, n, w in said] if words else [],
            }
            for i, (start, length, who, text, said) in enumerate(turns)
        ],
        "stems": [
            {"speaker": s, "kind": "anechoic", "codes": pack_codes(rng.integers(0, 16, (4, num_frames)), 4)}
            for s in speakers
        ]
        if stems
        else [],
        "enrolments": [
            {
                "speaker": who,
                "utterance_id": f"{who}-9",
                "codes": pack_codes(np.random.default_rng(seed + 1000 + i).integers(0, 16, (4, 50 + 10 * i)), 4),
            }
            for i, who in enumerate(speakers)
        ]
        if enrolments
        else [],
    }


def documents(*rows, **options):
    return Compose(**{"group": 2, **options})(codes_table(*(rows or (conversation(),)))).to_pylist()


def audio_of(row):
    """Codes (4, T) of each audio segment."""
    found, at = [], 0
    for segment in row["segments"]:
        if segment["kind"] == AUDIO:
            size = segment["length"] * 2
            found.append(unpack_codes(row["codes"][at : at + size], 4, 4))
            at += size
    return found


def answer(row):
    """A transcription's tokens after <text>."""
    return row["text_tokens"][row["text_tokens"].index(T.TEXT) + 1 :]


IN_LAYOUTS = [
    (task, layout)
    for task in sorted(TASKS)
    for layout in LAYOUTS
    if LAYOUTS[layout].has_groups or not TASKS[task].needs_even_group
]


@pytest.mark.parametrize(("task", "layout"), IN_LAYOUTS)
def test_one_set_of_codes_makes_every_task_in_every_layout(task, layout):
    group = 2 if LAYOUTS[layout].has_groups else 1
    made = documents(
        conversation(), conversation(name="c1", seed=1), tasks=(task,), layout=layout, group=group, prompt_s=0.5
    )
    assert made or task == "asr_target"
    grid = GridSpec(make_layout(layout, 4, 16, group), 4, 16, 4)
    for row in made:
        batch = collate([packed(row)], grid)  # every segment used up, every span inside the document
        assert int(batch.text_weights.sum() + batch.audio_weights.sum()) > 0
        columns = np.zeros(row["num_columns"], int)
        for segment in row["segments"]:
            length = segment["length"] if segment["kind"] == TEXT else grid.layout.num_columns(segment["length"])
            columns[segment["start_column"] : segment["start_column"] + length] += 1
        assert (columns >= 1).all()
        assert (columns == 1).all() or task == "duplex"


def test_there_are_four_serializations():
    made = {d["task"]: d for d in documents(tasks=("asr", "asr_fifo", "asr_timed", "asr_token"))}
    assert T.show(answer(made["asr"])) == ("[s0]good morning[s1]hello there[s0]how was that[s1]wonderful weather<end>")
    assert T.show(answer(made["asr_fifo"])) == (
        "good morning<change>hello there<change>how was that<change>wonderful weather<end>"
    )
    assert T.show(answer(made["asr_timed"])) == (
        "[0.00][s0]good morning[1.00][0.75][s1]hello there[1.50][1.75][s0]how was that[2.50]"
        "[2.75][s1]wonderful weather[3.75]<end>"
    )
    # Words by their ends; bob's first turn overlaps ann's and so is on the second channel.
    assert T.show(answer(made["asr_token"])) == (
        "good morning<change>hello there<change>how was that wonderful weather<end>"
    )
    raw = documents(tasks=("asr",), text="raw")[0]
    assert T.show(answer(raw)).startswith("[s0]Good Morning![s1]Hello There!")


def test_token_level_output_needs_word_times():
    with pytest.raises(UnusableRowError, match="u0 has no word times, which task asr_token needs; hubbub data align"):
        documents(conversation(words=False), tasks=("asr_token",))


def test_instructions_are_answered_with_the_turns_they_ask_for():
    asked = {}
    for number in range(60):
        for row in documents(conversation(name=f"c{number}"), tasks=("asr_target",)):
            tokens = row["text_tokens"]
            end = next(i for i, t in enumerate(tokens) if t in (T.AUDIO, T.ENROL) and i > 1)
            asked.setdefault(T.decode(tokens[2:end]), []).append((T.show(answer(row)), len(audio_of(row))))
    ann = "[s0]good morning[s0]how was that<end>"
    bob = "[s1]hello there[s1]wonderful weather<end>"
    wanted = {"speaker 1": ann, "speaker 2": bob, "gender f": ann, "gender m": bob, "says good": ann, "says hello": bob}
    for text, target in wanted.items():
        assert {said for said, _ in asked[text]} == {target}
        assert {number for _, number in asked[text]} == {1}
    assert {said for said, _ in asked["all"]} == {
        "[s0]good morning[s1]hello there[s0]how was that[s1]wonderful weather<end>"
    }
    assert {number for _, number in asked["voice"]} == {2}  # a sample of the voice, and the mixture
    assert {said for said, _ in asked["voice"]} == {ann, bob}
    assert not any(text.startswith("language") for text in asked)  # all speak the same


def hotwords_of(document):
    tokens = document["text_tokens"]
    return T.decode(tokens[2 : tokens.index(T.TEXT)]).split()


def test_hotwords_are_said_or_not_and_other_conversations_words_are_among_them():
    from operators.documents.compose import Compose
    from operators.documents.hotwords import WordCounts

    rows = [conversation(name=f"c{i}", seed=i) for i in range(300)]
    common, rare = "people", [f"rareword{chr(97 + i)}" for i in range(20)]
    corpus = [[{"text_normalized": f"{common} {word}"}] for word in rare]
    words = WordCounts.of([*(row["turns"] for row in rows[:20]), *corpus])
    assert words == WordCounts.of([*corpus[::-1], *(row["turns"] for row in rows[:20])])
    compose = Compose(tasks=("asr_context",), group=2, hotwords=6)
    made = [next(iter(compose.documents(row, CODEC, words=words))) for row in rows]
    said = {w for t in rows[0]["turns"] for w in t["text_normalized"].split()}
    lists = [hotwords_of(document) for document in made]
    assert 0.05 < sum(not one for one in lists) / 300 < 0.16
    without_hit = sum(bool(one) and not said & set(one) for one in lists) / 300
    assert 0.12 < without_hit < 0.28
    assert 0.3 < sum(w in said for one in lists for w in one) / sum(map(len, lists)) < 0.75
    assert max(map(len, lists)) == 6
    assert all(len(set(one)) == len(one) for one in lists)
    # Distractors are as common as in the corpus: the common word is one about as often as all rare ones together.
    assert sum(common in one for one in lists) > 5 * max(sum(word in one for one in lists) for word in rare)
    # By the document's id: whatever else is composed, and in whatever order.
    again = [next(iter(compose.documents(row, CODEC, words=words))) for row in rows[::-1]]
    assert again[::-1] == made
    other = Compose(tasks=("asr_context",), group=2, hotwords=6, seed=1)
    assert [next(iter(other.documents(row, CODEC, words=words))) for row in rows] != made


def test_extraction_goes_from_the_mixture_to_one_speakers_stem():
    row = conversation()
    (made,) = documents(row, tasks=("extract",))
    enrolment, mixture, target = audio_of(made)
    codes = unpack_codes(row["codes"], 4, 4)
    assert np.array_equal(mixture, codes)
    own = [unpack_codes(stem["codes"], 4, 4) for stem in row["stems"]]
    who = next(i for i, stem in enumerate(own) if np.array_equal(target, stem))
    assert np.array_equal(enrolment, unpack_codes(row["enrolments"][who]["codes"], 4, 4))
    audio_spans = [s for s in made["loss_spans"] if s["kind"] == AUDIO]
    starts = [s["start_column"] for s in made["segments"] if s["kind"] == AUDIO]
    assert [s["start_column"] for s in audio_spans] == [starts[2]]
    with pytest.raises(UnusableRowError, match=r"no codes of .* stem"):
        documents(conversation(stems=False), tasks=("extract",))


def test_a_dialogue_is_spoken_from_its_script_and_voice_samples():
    row = conversation()
    (made,) = documents(row, tasks=("speak",))
    assert T.show(made["text_tokens"]).startswith("<speak>[s0]<enrol>[s1]<enrol><text>[s0]good morning[s1]hello there")
    *voices, target = audio_of(made)
    assert np.array_equal(target, unpack_codes(row["codes"], 4, 4))
    assert [v.shape[1] for v in voices] == [50, 60]
    first = min(s["start_column"] for s in made["loss_spans"])
    assert first == next(s["start_column"] for s in made["segments"] if s["length"] == 160)


def test_duplex_has_both_speakers_side_by_side_and_words_where_they_begin():
    row = conversation()
    (made,) = documents(row, tasks=("duplex",), prompt_s=0.5)
    (both,) = audio_of(made)
    for number, stem in enumerate(row["stems"]):
        assert np.array_equal(both[:, number::2], unpack_codes(stem["codes"], 4, 4))
    start = next(s["start_column"] for s in made["segments"] if s["kind"] == AUDIO)
    batch = collate([packed(made)], GridSpec(make_layout("parallel", 4, 16, 2), 4, 16, 4))
    text = batch.text.numpy()[start : start + 160]
    for frame, word in ((0, "good"), (15, " morning"), (70, "how"), (78, " was"), (86, " that")):
        assert T.decode(text[frame : frame + len(word)].tolist()) == word
    assert (text[100:] == T.PAD).all()  # bob's words are not the first speaker's
    assert not documents(conversation(TURNS[:1] + TURNS[2:3]), tasks=("duplex",))  # one speaker is no dialogue


def test_interleaved_turns_are_audio_or_text_never_both():
    row = conversation()
    kinds = set()
    for number in range(12):
        (made,) = documents({**row, "conversation_id": f"c{number}"}, tasks=("interleave",))
        shown = T.show(made["text_tokens"])
        sounds = shown.count("<audio>")
        assert sounds == len(audio_of(made)) == shown.count("<audio_end>")
        assert (
            sum(text in shown for text in ("good morning", "hello there", "how was that", "wonderful weather"))
            == 4 - sounds
        )
        assert "good morning" in shown  # overlapped turns stay text
        assert "hello there" in shown
        kinds.add(sounds)
    assert kinds == {0, 1, 2}


def test_later_windows_are_given_samples_of_earlier_voices():
    later = tuple((start + 200, n, who, text, ()) for start, n, who, text, _ in TURNS)
    row = conversation(TURNS + later, num_frames=400)
    first, second = documents(row, tasks=("asr",), window_s=4.5, carry_voices=True, silence_share=0.0)
    assert T.show(first["text_tokens"]).startswith("<asr><text>")
    assert T.show(second["text_tokens"]).startswith("<asr>[s0]<enrol>[s1]<enrol><audio><text>[s0]good morning")
    kinds = [segment["kind"] for segment in second["segments"]]
    assert (AUDIO, AUDIO) not in itertools.pairwise(kinds)  # no two sounds touch
    codes = unpack_codes(row["codes"], 4, 4)
    voices = audio_of(second)
    assert np.array_equal(voices[0], codes[:, 70:100])
    assert np.array_equal(voices[1], codes[:, 110:150])


def test_repeated_frames_are_left_out_of_prompts_only():
    rng = np.random.default_rng(0)
    codes = np.repeat(rng.integers(0, 16, (4, 40)), 4, axis=1)
    row = {**conversation(), "codes": pack_codes(codes, 4)}
    assert unpack_codes(without_repeats(row["codes"], CODEC), 4, 4).shape[1] <= 40
    transcription, synthesis = documents(row, tasks=("asr", "speak"), deduplicate=True)
    assert audio_of(transcription)[0].shape[1] <= 40
    assert audio_of(synthesis)[-1].shape[1] == 160


def test_text_is_encoded_by_the_tokenizer_that_the_user_names(tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers (extra `codecs`) is not installed")
    words = ["[UNK]", "good", "morning", "hello", "there", "how", "was", "that", "wonderful", "weather"]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    own = tokenizers.Tokenizer(model)
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.save(str(tmp_path / "tokenizer.json"))
    (made,) = documents(tasks=("asr",), tokenizer=str(tmp_path))
    tokenizer = load_tokenizer(str(tmp_path))
    assert isinstance(tokenizer, FileTokenizer)
    assert tokenizer.turns(answer(made))[0] == ("s0", "good morning")
    assert len(answer(made)) == 4 + 9 + 1  # tags, words, end
    assert tokenizer.vocab_size == T.FIRST_TEXT + len(words)
    assert tokenizer.digest != T.digest
    # Timed answers begin with a time, which a grammar of tags would forbid.
    assert transcription("asr_timed").grammar(tokenizer, 30.0, 0) is None
    assert isinstance(transcription("asr").grammar(tokenizer, 30.0, 0), ArrivalGrammar)
    other = tuple((s, n, who, "xylophone", ()) for s, n, who, _, _ in TURNS)
    with pytest.raises(UnusableRowError, match="the tokenizer cannot encode 'xylophone'"):
        documents(conversation(other), tasks=("asr",), tokenizer=str(tmp_path))
    with pytest.raises(InputError, match=r"compose.tokenizer: .* is not a readable tokenizer.json"):
        _ = Compose(tokenizer=str(tmp_path / "none.json")).loaded_tokenizer


def test_documents_do_not_depend_on_the_batch():
    rows = [conversation(name=f"c{i}", seed=i) for i in range(5)]
    tasks = tuple(sorted(TASKS))
    whole = documents(*rows, tasks=tasks)
    alone = list(itertools.chain(*(documents(row, tasks=tasks) for row in rows)))
    assert whole == alone


@pytest.mark.parametrize("task", ["asr_target", "asr_context", "extract", "interleave"])
def test_the_seed_decides_the_random_choices_of_tasks(task):
    rows = [conversation(name=f"c{i}", seed=i) for i in range(12)]
    first, again, other, default = (
        documents(*rows, tasks=(task,), **options) for options in ({"seed": 1}, {"seed": 1}, {"seed": 2}, {})
    )
    assert first == again
    assert first != other
    assert default == documents(*rows, tasks=(task,), seed=0)


def test_tasks_that_cannot_be_composed_are_refused():
    with pytest.raises(InputError, match=r"task duplex needs an even number of frames per column"):
        Compose(tasks=("duplex",), group=1)
    silent = tuple((s, n, who, "", ()) for s, n, who, _, _ in TURNS)
    with pytest.raises(UnusableRowError, match="has no text to transcribe"):
        documents(conversation(silent), tasks=("asr",))
    assert replace(Compose(), group=2).group == 2
