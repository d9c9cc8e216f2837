"""Features read from memory-mapped partitions: any row and range of any record batch, without a copy."""

import json
from dataclasses import replace

import numpy as np
import pytest

from models.sequence.documents import REFERENCE, PackedDocuments
from operators.errors import InputError
from operators.schema import FEATURES, table
from operators.store.dataset import Dataset, Partition
from operators.store.frames import FeaturePartitions
from operators.tokenize.features import stored

WIDTH, RATIO = 6, 4


def real(partition, row):
    frames = RATIO * (3 + row)
    return np.random.default_rng([partition, row]).standard_normal((frames, WIDTH)).astype(np.float32)


def write(root, kind):
    """Two partitions of several record batches; return their ids and keys."""
    dataset, named = Dataset(str(root), "features"), []
    told = {"dtype": kind, "width": WIDTH // 2, "layers": 2, "frames_per_frame": RATIO}

    for number in range(2):

        def fill(writer, number=number):
            for first in range(0, 5, 2):
                rows = []
                for row in range(first, min(first + 2, 5)):
                    values, scales = stored(real(number, row), kind)
                    rows.append({"conversation_id": "c", "channel": 0, "start_frame": 0, "num_frames": 3 + row})
                    rows[-1] |= {"values": values.tobytes(), "scales": scales.tolist()}
                writer.write(table(rows, FEATURES))

        partition = Partition(partition_id=f"train-{number}", row_ids=(), depends={"kind": kind})
        dataset.commit(partition, FEATURES, {"hubbub.features": json.dumps(told)}, fill)
        named.append({"partition_id": partition.partition_id, "key": partition.key})
    return dataset, named


def pack(*references):
    """References (partition, row, first frame, frames) as a pack."""
    columns = np.cumsum([0, *(length for *_, length in references)])
    segments = [[1, start, length] for start, (*_, length) in zip(columns, references, strict=False)]
    return PackedDocuments(
        pack_id="p",
        num_columns=int(columns[-1]),
        cu_seqlens=np.array([0, columns[-1]], np.int32),
        segments=np.array(segments, np.int32),
        text_tokens=np.zeros(0, np.int32),
        codes=np.array([reference[:3] for reference in references], REFERENCE).tobytes(),
        loss_spans=np.zeros((0, 3), np.int32),
        loss_weights=np.zeros(0, np.float32),
    )


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_a_reference_is_read_as_it_was_written_and_not_copied(tmp_path, kind):
    dataset, named = write(tmp_path, kind)
    opened = FeaturePartitions(dataset, named)
    asked = [(p, row, start, 3 + row - start) for p in range(2) for row in range(5) for start in (0, 2)]
    for (partition, row, start, length), found in zip(asked, opened.of(pack(*asked)), strict=True):
        values, scales = stored(real(partition, row), kind)
        assert np.array_equal(found.values, values[RATIO * start : RATIO * (start + length)])
        assert np.array_equal(found.scales, scales)
        assert found.values.dtype == values.dtype
        assert not found.values.flags.owndata
        assert not found.values.flags.writeable  # the memory map's own bytes
    first, again = (opened.of(pack((1, 3, 0, 6)))[0].values for _ in range(2))
    assert np.shares_memory(first, again)


def test_what_is_not_there_is_named(tmp_path):
    dataset, named = write(tmp_path, "float16")
    opened = FeaturePartitions(dataset, named)
    opened.check()
    with pytest.raises(ValueError, match="row 0 has 12 frames"):
        opened.of(pack((0, 0, 1, 3)))
    gone = [named[0], {**named[1], "key": "0" * 32}]
    with pytest.raises(InputError, match=r"partition train-1 of .* is missing"):
        FeaturePartitions(dataset, gone).check()
    with pytest.raises(InputError, match="is missing"):
        FeaturePartitions(dataset, gone).of(replace(pack((1, 0, 0, 3)), pack_id="q"))
