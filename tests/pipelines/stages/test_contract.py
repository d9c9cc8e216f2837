"""What every stage of the tuple `pipelines.stages.STAGES` keeps to."""

from functools import cache
from pathlib import Path

import pytest

from pipelines.stages import STAGES, dataset_names, plan_recipe, stage_names, stage_of
from tests.golden.fingerprints import build
from tests.models.support import save_small_whisper
from tests.pipelines.support import hearing, make_stale


@pytest.fixture(scope="module")
def roads(tmp_path_factory):
    """Everything made, by a recipe of codes, or of an encoder's features: between them every stage takes part."""

    @cache
    def made(hears):
        folder = tmp_path_factory.mktemp("stages")
        if not hears:
            return build(folder)
        pytest.importorskip("transformers", reason="transformers (extra `codecs`) is not installed")
        return build(folder, hearing(save_small_whisper(folder / "encoder")))

    return made


@pytest.fixture
def road(roads, stage):
    return roads(stage.dataset == "features")


@pytest.fixture(scope="module", params=[stage.dataset for stage in STAGES])
def stage(request):
    return stage_of(request.param)


def test_a_stage_reads_only_what_stands_before_it(stage):
    before = [one.dataset for one in STAGES[: STAGES.index(stage)]]
    assert set(stage.upstream) <= set(before)
    assert stage.about


def test_a_stage_is_made_on_workers_or_says_how(stage):
    assert (stage.make is not None) or (stage.run is not None) or (stage.index is not None)


def test_the_documentation_lists_the_stage(stage):
    text = (Path(__file__).parents[3] / "ARCHITECTURE.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith(f"| `{stage.dataset}`")]
    assert len(rows) == 1
    assert f"| {stage.name} | {stage.about} |" in rows[0]


def test_data_sets_have_one_stage_and_stages_come_in_order():
    assert len({stage.dataset for stage in STAGES}) == len(STAGES)
    order = [stage_names().index(stage.name) for stage in STAGES]
    assert order == sorted(order)


def test_partitions_are_named_once_and_planned_the_same_again(stage, road):
    plans = [plan_recipe(road.recipe, road.output).stage(stage.dataset) for _ in range(2)]
    keys = [[(p.partition_id, p.key) for p in plan.partitions] for plan in plans]
    assert keys[0] == keys[1]
    assert keys[0]
    assert len({name for name, _ in keys[0]}) == len(keys[0])


def test_every_key_depends_on_a_version_and_on_what_is_upstream(stage, road):
    plan = plan_recipe(road.recipe, road.output)
    for partition in plan.stage(stage.dataset).partitions:
        assert partition.depends["operators"], partition.partition_id
    # What a recipe of codes has no part in is not planned: features.
    read = [one for one in plan.stages if one.dataset in stage.upstream]
    upstream = {p.key for one in read for p in one.partitions}
    # Indexes are read row by row: a key holds the digests of the rows that are used.
    if upstream and stage.dataset != "conversations":
        for partition in plan.stage(stage.dataset).partitions:
            text = str(partition.depends)
            assert any(key in text for key in upstream), partition.partition_id


def test_what_is_made_is_fresh_and_committed(stage, road):
    plan = plan_recipe(road.recipe, road.output).stage(stage.dataset)
    assert not plan.stale
    if stage.dataset in dataset_names():
        dataset = road.output.dataset(stage.dataset)
        receipts = [dataset.committed(p) for p in plan.partitions]
        assert all(receipts)
        assert sum(receipt.num_rows for receipt in receipts) > 0


def test_a_partition_made_again_is_the_same_to_the_byte(stage, road, tmp_path):
    """Made in a second folder, upstream taken over: the same content digests."""
    import shutil

    from pipelines.plan.output import Output

    if stage.make is None:
        pytest.skip("not made by partitions")
    for name in stage.upstream:
        source = road.output.folder / ("checkpoints" if name == "training" else f"data/{name}")
        if source.exists():
            shutil.copytree(source, tmp_path / source.relative_to(road.output.folder), dirs_exist_ok=True)
    for name in ("utterances", "recordings", "conversations", "codes", "packs"):  # what planning itself reads
        if not (tmp_path / "data" / name).exists():
            shutil.copytree(road.output.folder / "data" / name, tmp_path / "data" / name)
    shutil.rmtree(tmp_path / "data" / stage.dataset, ignore_errors=True)
    again = Output(tmp_path)
    plan = plan_recipe(road.recipe, again).stage(stage.dataset)
    receipts = make_stale(plan, road.recipe, again)
    first = road.output.dataset(stage.dataset)
    assert len(receipts) == len(plan.partitions)
    for partition, receipt in zip(plan.partitions, receipts, strict=True):
        assert receipt.content_digest == first.committed(partition).content_digest
