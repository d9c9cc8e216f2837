"""compose, pack, shards: from codes to packs that training reads."""

import itertools
import json
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.codecs.codec import pack_codes
from models.codecs.dmel import DMel
from models.sequence.batch import collate
from models.sequence.documents import AUDIO
from models.sequence.tokenizer import ByteTokenizer
from operators.documents.compose import Compose
from operators.documents.windows import windows
from operators.errors import InputError, UnusableRowError
from operators.packing.pack import Pack
from operators.schema import CODES, DOCUMENTS, PACKS, check_chain, table
from operators.store.dataset import Dataset, Partition
from operators.store.shards import PackShards
from tests.operators.documents.support import words_of

CODEC = DMel().spec
TOKENIZER = ByteTokenizer()


def conversation(number=0, num_frames=120, turns=((0, 50, "a", "hi you"), (40, 60, "b", "so"))):
    rng = np.random.default_rng(number)
    codes = rng.integers(0, 16, (80, num_frames))
    return {
        "conversation_id": f"c{number:03d}",
        "origin": "simulated",
        "split": "train",
        "num_samples": num_frames * 400,
        "num_frames": num_frames,
        "codes": pack_codes(codes, 4),
        "speakers": list(dict.fromkeys(turn[2] for turn in turns)),
        "turns": [
            {
                "utterance_id": f"u{i}",
                "speaker": who,
                "start_frame": start,
                "num_frames": length,
                "text": text,
                "text_normalized": text,
                "words": [],
            }
            for i, (start, length, who, text) in enumerate(turns)
        ],
        "stems": [],
    }


def codes_table(*rows):
    return table(rows, CODES).replace_schema_metadata({"hubbub.codec": json.dumps(asdict(CODEC))})


def test_the_chain_from_codes_to_packs_is_checked():
    check_chain(CODES, Compose(), Pack())


def test_serialized_output_is_by_start_with_arrival_order_tags():
    row = conversation()
    backwards = {**row, "turns": row["turns"][::-1]}
    for one in (row, backwards):
        (made,) = Compose()(codes_table(one)).to_pylist()
        answer = made["text_tokens"][made["text_tokens"].index(TOKENIZER.TEXT) :]
        assert TOKENIZER.turns(answer) == [("s0", "hi you"), ("s1", "so")]
    crowd = conversation(turns=tuple((i, 1, str(i), "x") for i in range(40)))
    with pytest.raises(UnusableRowError, match="tags for 31 speakers"):
        Compose()(codes_table(crowd))


@pytest.mark.parametrize(("layout", "group"), [("parallel", 1), ("parallel", 4), ("parallel", 7), ("delay", 1)])
def test_the_grid_is_as_the_schema_module_describes_it(layout, group):
    compose = Compose(tasks=("asr", "continue"), layout=layout, group=group, prompt_s=1.0)
    documents = compose(codes_table(conversation())).to_pylist()
    shape = compose.layout_of(CODEC)
    asr, going = documents
    columns = shape.num_columns(120)
    assert asr["num_columns"] == 1 + columns + 1 + len("hi you") + len("so") + 2 + 1
    assert asr["text_tokens"][0] == TOKENIZER.ASR
    assert asr["text_tokens"][1] == TOKENIZER.TEXT
    assert asr["loss_spans"] == [
        {"kind": 0, "start_column": 2 + columns, "end_column": asr["num_columns"], "weight": 1.0}
    ]
    assert going["num_columns"] == columns + 2
    assert going["text_tokens"] == [TOKENIZER.CONTINUE, TOKENIZER.AUDIO_END]
    prompt_frames = -(-40 // group) * group
    audio, text = going["loss_spans"]
    assert audio["start_column"] == text["start_column"] == 1 + shape.target_columns(prompt_frames, 120)[0][0]
    assert (audio["end_column"], text["end_column"]) == (columns + 1, columns + 2)
    assert audio["weight"] == pytest.approx(1 / shape.num_streams)

    packed = PackOf(compose, conversation())
    batch = collate([packed.first], packed.grid)
    # The last text cell that a continuation predicts is <audio_end>; those before it mean that audio continues.
    assert batch.text_targets[-1] == TOKENIZER.AUDIO_END
    assert set(batch.text_targets[-(text["end_column"] - text["start_column"]) : -1].tolist()) <= {TOKENIZER.PAD}
    # In audio columns the text cell is pad.
    assert set(batch.text[batch.audio_columns].tolist()) == {TOKENIZER.PAD}


@pytest.mark.parametrize(("layout", "group"), [("parallel", 1), ("parallel", 4), ("delay", 1), ("coarse_first", 1)])
def test_talker_spans_cover_the_columns_of_their_frames(layout, group):
    compose = Compose(tasks=("asr", "continue"), layout=layout, group=group)
    row = conversation(turns=((0, 50, "a", "hi"), (40, 60, "b", "so"), (108, 12, "a", "yes")))
    asr, going = compose(codes_table(row)).to_pylist()
    shape = compose.layout_of(CODEC)
    columns = shape.num_columns(120)
    # The layout's columns of frames whose codes mark who talks: 0 no one, 1 a, 2 b, 3 both.
    codes = np.zeros((CODEC.num_codebooks, 120), np.int32)
    for who, start, end in ((1, 0, 50), (2, 40, 100), (1, 108, 120)):
        codes[:, start:end] += who
    grid = shape.to_grid(codes)
    made = np.zeros(columns + 1, np.int32)
    for span in asr["talker_spans"]:
        made[span["start_column"] : span["end_column"]] += 1 << span["talker"]
    if layout == "delay":  # a column holds several frames' codes
        assert [s["start_column"] for s in asr["talker_spans"]] == [1, 41, 109]
    else:
        per_frame = grid[0] if layout == "parallel" else grid[0] % CODEC.codebook_size
        if group == 1:
            assert (made[1:] == per_frame).all()
        else:
            assert (made[1:] != per_frame).sum() <= 6  # columns that hold an edge
    assert going["talker_spans"] == []
    merged = replace(compose, deduplicate=True)(codes_table(row)).to_pylist()[0]
    assert merged["talker_spans"] == []


class PackOf:
    """Documents of conversations, packed, written to a shard and read back."""

    def __init__(self, compose, *rows, capacity=4096, folder=None):
        import tempfile

        self.table = Pack(capacity=capacity)(compose(codes_table(*rows)))
        dataset = Dataset(folder or tempfile.mkdtemp(), "packs")
        metadata = {
            "hubbub.codec": json.dumps(asdict(CODEC)),
            "hubbub.layout": json.dumps({"name": compose.layout, "group": compose.group}),
        }
        partition = Partition(partition_id="train-0", row_ids=(), depends={})

        def fill(writer):
            for start in range(0, self.table.num_rows, 2):
                writer.write(self.table.slice(start, 2))

        self.shards = PackShards(dataset, dataset.snapshot([dataset.commit(partition, PACKS, metadata, fill)], {}, {}))
        self.grid = self.shards.grid
        self.first = self.shards[0]


def test_packs_read_back_are_what_was_written_from_any_record_batch():
    packed = PackOf(Compose(tasks=("asr", "continue")), *(conversation(i) for i in range(9)), capacity=300)
    rows = packed.table.to_pylist()
    assert len(packed.shards) == len(rows) > 4
    for i, row in enumerate(rows):
        pack = packed.shards[i]
        assert (pack.pack_id, pack.num_columns) == (row["pack_id"], row["num_columns"])
        assert pack.cu_seqlens.tolist() == row["cu_seqlens"]
        assert pack.text_tokens.tolist() == row["text_tokens"]
        assert bytes(pack.codes) == row["codes"]
        assert pack.segments.tolist() == [list(segment.values()) for segment in row["segments"]]
        assert pack.loss_spans.tolist() == [list(span.values())[:3] for span in row["loss_spans"]]
        assert pack.talker_spans.tolist() == [list(span.values()) for span in row["talker_spans"]]


def test_windows_are_cut_where_no_one_speaks_and_lose_no_turn():
    turns = [
        {"start_frame": s, "num_frames": n, "speaker": "a"}
        for s, n in ((5, 30), (30, 30), (80, 10), (100, 50), (170, 20))
    ]
    found = windows(turns, 200, length=100, overlap=0)
    assert [turn for window in found for turn in window.turns] == turns
    for window in found:
        assert window.end_frame - window.start_frame <= 100
        for turn in window.turns:
            assert window.start_frame <= turn["start_frame"]
            assert turn["start_frame"] + turn["num_frames"] <= window.end_frame


def talk(spans, *, timed):
    """Turns (start, frames, words); words are unique, and have times on request."""
    turns, number = [], 0
    for i, (start, frames, words) in enumerate(spans):
        names = [f"w{number + k}" for k in range(words)]
        number += words
        turns.append(
            {
                "start_frame": start,
                "num_frames": frames,
                "speaker": "abcd"[i % 4],
                "text": " ".join(names),
                "text_normalized": " ".join(names),
                "words": words_of(start, frames, " ".join(names)) if timed and words <= frames else [],
            }
        )
    return turns


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 90), st.integers(0, 6)), min_size=1, max_size=30),
    st.integers(20, 300),
    st.integers(0, 19),
    st.booleans(),
)
def test_windows_of_any_conversation_hold_every_word_once(gaps, length, overlap, timed):
    spans, at = [], 0
    for gap, duration, words in gaps:
        at += gap
        spans.append((at, duration, words))
        at += duration if gap % 3 else duration // 2
    turns = talk(sorted(spans), timed=timed)
    end = max(t["start_frame"] + t["num_frames"] for t in turns) + 3
    found = windows(turns, end, length, overlap)

    def words(turns):
        return sorted(w for t in turns for w in t["text"].split())

    assert words(t for w in found for t in w.turns) == words(turns)
    for window in found:
        assert 0 <= window.start_frame < window.end_frame <= end
        assert window.end_frame - window.start_frame <= length
        for turn in (*window.carried, *window.turns):
            assert window.start_frame <= turn["start_frame"]
            assert turn["start_frame"] + turn["num_frames"] <= window.end_frame
            for word in turn["words"]:
                assert turn["start_frame"] <= word["start_frame"]
                assert word["start_frame"] + word["num_frames"] <= turn["start_frame"] + turn["num_frames"]
    assert len(found) == 1 or end > length
    if all(window.split is None for window in found):
        assert [turn for window in found for turn in window.turns] == turns


def test_speech_without_a_pause_is_cut_through_the_fewest_words_then_turns():
    # Two speakers without a pause: at frame 90 one turn begins; both speak, between words, at 76 to 79 only.
    turns = talk([(0, 90, 3), (60, 80, 2), (90, 70, 2)], timed=True)
    turns[0]["words"] = [
        {"word": f"w{i}", "start_frame": s, "num_frames": n} for i, (s, n) in enumerate(((0, 40), (40, 36), (80, 10)))
    ]
    turns[1]["words"] = [
        {"word": f"w{3 + i}", "start_frame": s, "num_frames": n} for i, (s, n) in enumerate(((60, 16), (79, 61)))
    ]
    first, second = windows(turns, 160, length=100, overlap=0)
    assert (first.start_frame, first.end_frame, first.split) == (0, 79, (0, 2))
    assert [turn["text"] for turn in first.turns] == ["w0 w1", "w3"]
    assert [turn["text"] for turn in second.turns] == ["w2", "w4", "w5 w6"]
    assert [(t["start_frame"], t["num_frames"]) for t in second.turns] == [(79, 11), (79, 61), (90, 70)]
    # Without word times, a cut through a turn may tear a word wherever it is: better where fewer speak.
    first, _ = windows(talk([(0, 70, 3), (60, 50, 2), (80, 50, 2)], timed=False), 130, length=100, overlap=0)
    assert (first.end_frame, first.split) == (80, (1, 1))


def test_a_turn_longer_than_a_window_is_cut_where_its_letters_would_be():
    (turn,) = talk([(0, 240, 4)], timed=False)
    found = windows([turn], 240, length=100, overlap=0)
    assert [w.split for w in found] == [(1, 1), (1, 1), None]
    assert " ".join(t["text"] for w in found for t in w.turns if t["text"]) == turn["text"]


def test_carried_turns_are_in_the_prompt_with_their_tags():
    turns = tuple((start, 60, "ab"[i % 2], f"turn {i}") for i, start in enumerate(range(0, 600, 80)))
    row = conversation(num_frames=640, turns=turns)
    documents = Compose(window_s=6.0, overlap_s=3.0)(codes_table(row)).to_pylist()
    assert len(documents) > 1
    second = documents[1]["text_tokens"]
    assert second[:2] == [TOKENIZER.ASR, TOKENIZER.CARRY]
    carried = second[2 : second.index(TOKENIZER.TEXT)]
    transcripts = [TOKENIZER.turns(d["text_tokens"][d["text_tokens"].index(TOKENIZER.TEXT) :]) for d in documents]
    assert list(itertools.chain(*transcripts)) == [(f"s{i % 2}", f"turn {i}") for i in range(len(turns))]
    assert TOKENIZER.turns(carried)[-1] == transcripts[0][-1]


def test_cuts_through_speech_are_counted():
    compose = Compose(window_s=1.0)
    batch = codes_table(conversation())
    documents = compose(batch)
    counted = compose.count_cuts(batch)
    assert counted["windows"] >= documents.num_rows > 1
    assert counted["cuts_in_speech"] == counted["windows"] - 1
    assert counted["split_words"] >= 1 <= counted["split_turns"]
    assert Compose(window_s=30.0).count_cuts(batch) == {
        "windows": 1,
        "cuts_in_speech": 0,
        "split_words": 0,
        "split_turns": 0,
    }


@pytest.mark.parametrize("change", [{"tasks": ()}, {"group": 0}, {"overlap_s": 40.0}, {"layout": "delay", "group": 2}])
def test_impossible_compositions_are_refused(change):
    with pytest.raises(InputError):
        Compose(**change)


def test_packs_are_the_same_whatever_order_documents_come_in():
    documents = Compose(tasks=("asr", "continue"))(codes_table(*(conversation(i, 60 + 7 * i) for i in range(12))))
    shuffled = documents.take(np.random.default_rng(0).permutation(documents.num_rows))
    assert Pack(capacity=500)(shuffled).equals(Pack(capacity=500)(documents))


def test_packing_conserves_documents_and_streams():
    documents = Compose(tasks=("asr", "continue"))(codes_table(*(conversation(i, 60 + 7 * i) for i in range(12))))
    packs = Pack(capacity=500)(documents).to_pylist()
    assert sorted(d["document_id"] for pack in packs for d in pack["documents"]) == sorted(
        documents["document_id"].to_pylist()
    )
    assert sum(len(pack["codes"]) for pack in packs) == sum(len(codes) for codes in documents["codes"].to_pylist())
    for pack in packs:
        assert pack["cu_seqlens"][-1] == pack["num_columns"] <= 500
        assert sum(s["length"] for s in pack["segments"] if s["kind"] == AUDIO) * 40 == len(pack["codes"])


def test_operators_accept_sliced_tables():
    rows = codes_table(*(conversation(i) for i in range(5)))
    compose = Compose()
    assert compose(rows.slice(3, 1)).equals(compose(codes_table(conversation(3))))
    documents = compose(rows)
    sliced = documents.slice(2, 2)
    assert Pack(capacity=400)(sliced).equals(Pack(capacity=400)(pa.Table.from_pylist(sliced.to_pylist(), DOCUMENTS)))
