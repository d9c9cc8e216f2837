"""Damages what a run keeps (shards, receipts, snapshots, recipes, checkpoints) and reads all of it.

    python -m tests.fuzz.stored --cases 400 --seed 0

clear: an InputError; same: what was read is what was written; silent: it is not; crashed, hung: as they say.
"""

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import torch

from models.training import checkpoint
from operators.digest import digest
from operators.errors import InputError
from operators.store.dataset import Dataset, Partition
from pipelines.recipes.files import recipe_of, write_recipe
from pipelines.recipes.recipe import Recipe
from tests.fuzz import arguments, outcome_of, tell
from tests.models.support import grid_spec, header, model_for

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("codes", pa.list_(pa.int32())),
        ("turns", pa.list_(pa.struct([("text", pa.string()), ("start", pa.int64())]))),
    ]
)
DAMAGES = ("bit", "bits", "cut", "emptied", "swapped", "zeroed")


def build(folder: Path) -> None:
    """Write a data set of three partitions, a recipe and a checkpoint."""
    dataset = Dataset(str(folder / "data"), "codes")
    receipts = []
    for number in range(3):
        turns = [[{"text": f"word {i} {j}", "start": j} for j in range(5)] for i in range(20)]
        rows = {"id": [f"{number}-{i}" for i in range(20)], "codes": [[i] * i for i in range(20)], "turns": turns}
        partition = Partition(partition_id=f"train-{number}", row_ids=(), depends={"number": number})
        table = pa.table(rows, schema=SCHEMA)
        receipts.append(dataset.commit(partition, SCHEMA, {"hubbub.about": "a test"}, lambda w, t=table: w.write(t)))
    dataset.snapshot(receipts, {"utterances": "0" * 64}, {"seed": 0})
    write_recipe(Recipe(), folder)
    grid = grid_spec()
    place: checkpoint.StreamPosition = {"position": 8, "seed": 7, "packs": "p", "grad_norms": [1.5], "validations": []}
    model = model_for(grid)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    checkpoint.save(folder, 4, checkpoint.copy_state(model, [optimizer]), header(grid), place)


def everything(folder: Path) -> str:
    """Read all that `build` wrote, as the program does; return a digest of it."""
    dataset = Dataset(str(folder / "data"), "codes")
    snapshot = dataset.latest()
    names = sorted(dataset.committed_names())
    receipts = [dataset.committed_by_key(*name.rsplit("-", 1)) for name in names]
    path = folder / "step-000004"
    model, step, found = checkpoint.load(path)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint.load_moments(path, model, [optimizer])
    tensors = [*model.state_dict().values(), *(v for one in optimizer.state.values() for v in one.values())]
    return digest(
        [
            snapshot,
            receipts,
            dataset.read(snapshot).to_pylist(),
            dataset.metadata(snapshot.receipts[0]) if snapshot else {},
            recipe_of(folder),
            [step, found],
            [[float(t.double().sum()), float(t.double().square().sum())] for t in tensors],
            checkpoint.check_position(path, "p", 7),
        ]
    )


def damage(path: Path, kind: str, draw: random.Random, others: list[Path]) -> None:
    """Damage one file."""
    data = bytearray(path.read_bytes())
    if kind in ("bit", "bits"):
        for _ in range(1 if kind == "bit" else 8):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        data = data[: draw.randrange(len(data))]
    elif kind == "emptied":
        data = bytearray()
    elif kind == "swapped":
        data = bytearray(draw.choice(others).read_bytes())
    else:
        start = draw.randrange(len(data))
        data[start : start + 64] = bytes(len(data[start : start + 64]))
    path.write_bytes(data)


def fuzz(cases: int, seed: int, folder: Path) -> Counter[str]:
    """Damage one file in each case, read everything, and count the outcomes."""
    torch.set_num_threads(1)
    whole = folder / "whole"
    build(whole)
    expected = everything(whole)
    files = sorted(
        path.relative_to(whole) for path in whole.rglob("*") if path.is_file() and not path.name.startswith(".making")
    )
    counts: Counter[str] = Counter()
    for number in range(cases):
        draw = random.Random(f"{seed}/{number}")
        name, kind = draw.choice(files), draw.choice(DAMAGES)
        tried = folder / "tried"
        shutil.copytree(whole, tried)
        alike = [whole / other for other in files if other.suffix == name.suffix and other != name]
        damage(tried / name, kind, draw, alike or [whole / name])

        def case(tried: Path = tried) -> str:
            try:
                return "same" if everything(tried) == expected else "silent"
            except InputError as error:
                return "clear" if str(error) and "\n" not in str(error) else "silent"

        outcome = outcome_of(case)
        if outcome not in ("clear", "same"):
            print(f"{outcome}: case {number}, {kind} {name}", flush=True)
        counts[outcome] += 1
        shutil.rmtree(tried)
    return counts


if __name__ == "__main__":
    parsed = arguments(__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        tell(fuzz(parsed.cases, parsed.seed, Path(temporary)))
