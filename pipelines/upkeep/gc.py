"""data gc: lists what no kept run needs, and removes it on request."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from models.config.header import read_header, steps
from operators.errors import InputError
from operators.store import storage
from pipelines.plan.context import lock_folder
from pipelines.plan.output import Output
from pipelines.plan.sources import made_corpus
from pipelines.recipes.check import check_recipe
from pipelines.recipes.files import recipe_of
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console
from pipelines.stages import dataset_names, plan_recipe


@dataclass(frozen=True)
class Waste:
    """A file or folder that no kept run needs."""

    what: str
    url: str
    num_bytes: int


def waste(output: Output, recipe: Recipe, keep_trainings: int) -> list[Waste]:
    """Return what can be removed: partitions in no kept snapshot or plan of the recipe, old trainings, leftovers.

    Kept are the newest snapshot of every data set, those that a kept checkpoint names by Merkle root, everything that
    the folder's own recipe would use, and the newest `keep_trainings` trainings with their evaluations.
    """
    trainings = sorted(
        (path for path in (output.folder / "checkpoints").glob("*") if steps(path)),
        key=lambda path: max(one.stat().st_mtime_ns for one in path.glob("step-*/checkpoint.json")),
        reverse=True,
    )
    plan = plan_recipe(recipe, output)
    own = output.training(plan.training_key).name
    kept = sorted(trainings, key=lambda path: path.name != own)[:keep_trainings]
    roots = {
        root
        for path in kept
        for root in read_header(path / f"step-{steps(path)[-1]:06d}")[1].lineage.get("datasets", {}).values()
    }
    found = [Waste("training", str(path), _size(path)) for path in trainings if path not in kept]
    used = {f"{p.partition_id}-{p.key}" for stage in plan.stages for p in stage.partitions}
    for name in dataset_names():
        dataset = output.dataset(name)
        newest = dataset.latest()
        snapshots = [s for n in range(1, newest.number + 1) if (s := dataset.numbered(n))] if newest else []
        names = set(used)
        for snapshot in snapshots:
            if snapshot is snapshots[-1] or snapshot.merkle_root in roots:
                names |= {f"{r.partition_id}-{r.key}" for r in snapshot.receipts}
        sizes = {f"{r.partition_id}-{r.key}": r.num_bytes for s in snapshots for r in s.receipts}
        for file in storage.list_names(dataset.url("partitions")):
            if file.endswith(".json") and file.removesuffix(".json") not in names:
                stem = file.removesuffix(".json")
                found.append(Waste(f"partition of {name}", dataset.url("partitions", stem), sizes.get(stem, 0)))
    mine = made_corpus(recipe, output)
    corpora = [
        path
        for path in (output.folder / "corpus").glob("[!.]*")
        # By name: it holds the key of the content, which the spelling of the folder and its place do not change.
        if (mine is None or path.name != mine.name) and path.is_dir()
    ]
    found += [Waste("corpus that was made", str(path), _size(path)) for path in corpora]
    yesterday = time.time() - 86_400
    patterns = ("data/*/partitions/.making-*", "checkpoints/*/.step-*", "corpus/.*")
    left = [path for pattern in patterns for path in output.folder.glob(pattern) if path.stat().st_mtime < yesterday]
    return found + [Waste("left by a run that was killed", str(path), _size(path)) for path in left]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def collect(folder: Path, keep_trainings: int, yes: bool) -> list[Waste]:
    """List what can be removed; remove it only on request.

    Raises:
        InputError: the folder is not the output of a run, or a run is using it.
    """
    recipe, output = recipe_of(folder), Output(folder)
    check_recipe(recipe)
    if keep_trainings < 1:
        raise InputError("data gc keeps at least one training: --keep-trainings 1")
    with lock_folder(folder):
        found = waste(output, recipe, keep_trainings)
        kinds = sorted({one.what for one in found})
        rows = [
            [kind, str(sum(w.what == kind for w in found)), f"{sum(w.num_bytes for w in found if w.what == kind):,}"]
            for kind in kinds
        ]
        if not found:
            console.line("gc", "everything here is needed")
            return found
        console.table("", ["what", "number", "bytes"], rows)
        for one in found[:20]:
            console.line("", one.url)
        if len(found) > 20:
            console.line("", f"and {len(found) - 20} more")
        if not yes:
            console.line("gc", "nothing was removed; --yes removes it")
            return found
        for one in found:
            _remove(one)
        console.line("gc", f"removed {sum(one.num_bytes for one in found):,} bytes")
    return found


def _remove(one: Waste) -> None:
    if one.what.startswith("partition"):
        # The receipt first: rows without a receipt are ignored, a receipt without rows is an error.
        storage.remove(f"{one.url}.json")
        storage.remove(f"{one.url}.arrow")
        return
    path = Path(one.url)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
