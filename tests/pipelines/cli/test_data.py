"""Verbs below data that use a checkpoint."""

import json
from dataclasses import replace

import pytest

from models.training import checkpoint
from operators.errors import InputError
from pipelines.cli.data import data
from tests.models.support import SHAPE, grid_spec, header, model_for


def saved(folder, **shape):
    grid = grid_spec()
    made = replace(header(grid), shape=replace(SHAPE, **shape))
    made = replace(made, lineage={"started_from": {"kind": "pretrained", "path": "/llms/one"}})
    return checkpoint.save(folder, 3, checkpoint.copy_state(model_for(grid, **shape)), made)


def test_low_rank_updates_are_written_for_the_llm_that_training_started_from(tmp_path):
    data(["hf", str(saved(tmp_path / "run", lora_rank=2)), str(tmp_path / "lora"), "--lora"])
    config = json.loads((tmp_path / "lora/adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (2, "/llms/one")
    assert not (tmp_path / "lora/model.safetensors").exists()


def test_updates_that_are_not_there_or_not_alone_are_refused(tmp_path):
    path = str(saved(tmp_path / "run"))
    with pytest.raises(InputError, match=r"trained with model\.lora_rank 0"):
        data(["hf", path, str(tmp_path / "lora"), "--lora"])
    with pytest.raises(InputError, match="leave one of them out"):
        data(["hf", path, str(tmp_path / "lora"), "--lora", "--with-audio"])
