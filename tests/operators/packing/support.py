"""Documents with given lengths, for the tests of packing."""

import numpy as np
import pyarrow as pa

from operators.schema import DOCUMENTS


def documents(lengths):
    """A table of DOCUMENTS of these lengths, all text, with some code bytes; ids rise in order."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "document_id": f"d{i:06d}",
            "conversation_id": f"c{i // 3}",
            "task": "asr",
            "speakers": [f"s{i % 7}"],
            "start_frame": 0,
            "num_frames": 0,
            "num_columns": int(n),
            "segments": [{"kind": 0, "start_column": 0, "length": int(n)}],
            "text_tokens": rng.integers(0, 100, n),
            "codes": bytes([i % 256]) * (i % 5),
            "loss_spans": [{"kind": 0, "start_column": 1, "end_column": int(n), "weight": 1.0}],
        }
        for i, n in enumerate(lengths)
    ]
    return pa.Table.from_pylist(rows, schema=DOCUMENTS)
