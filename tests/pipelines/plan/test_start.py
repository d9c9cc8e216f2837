"""Initial weights: which text LLM a checkpoint goes back to."""

from dataclasses import replace

from models.training import checkpoint
from pipelines.plan.start import llm_of
from tests.models.support import grid_spec, header, model_for


def test_the_llm_is_found_by_way_of_all_checkpoints_between(tmp_path):
    grid, model = grid_spec(), model_for(grid_spec())

    def saved(name, lineage):
        made = replace(header(grid), lineage=lineage)
        return checkpoint.save(tmp_path / name, 7, checkpoint.copy_state(model), made)

    first = saved("first", {"started_from": {"kind": "pretrained", "path": "/llms/one"}})
    second = saved("second", {"started_from": {"kind": "checkpoint", "path": str(first)}})
    assert llm_of({"started_from": {"kind": "checkpoint", "path": str(second)}}) == "/llms/one"
    assert llm_of({"started_from": {"kind": "scratch"}}) is None
    assert llm_of({"started_from": {"kind": "checkpoint", "path": str(tmp_path / "gone")}}) is None
    assert llm_of({}) is None
