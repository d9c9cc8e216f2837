"""Which parts of a model are trained."""

import pytest
import torch

from models.config.options import Training
from models.sequence.batch import collate
from models.speech_lm.lora import part_of, train_only
from models.training.optimizers import make_optimizers
from tests.models.speech_lm.test_front_end import GRID, document
from tests.models.speech_lm.test_front_end import header as header_of
from tests.models.speech_lm.test_front_end import model_for as hearing_model
from tests.models.support import Source, grid_spec, joined, model_for, save_small_whisper, train_flat
from tests.models.support import document as of_codes

EVERYTHING = {"projector", "tokens", "lora", "encoder"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    return save_small_whisper(tmp_path_factory.mktemp("encoder") / "whisper")


@pytest.mark.parametrize("parts", [(), ("projector",), ("projector", "tokens"), ("lora",), ("encoder", "projector")])
def test_a_training_changes_what_it_names_and_nothing_else(encoder, tmp_path, parts):
    def made():
        return hearing_model(encoder, lora_rank=2, encoder_rank=2)

    before, model = made().state_dict(), made()
    packs = [joined([document(2 * i), document(2 * i + 1, 0.7)], f"p{i}") for i in range(2)]
    config = Training(steps=3, packs_per_step=2, warmup_steps=1, only=parts)
    train_flat(model, Source(packs), GRID, config, seed=0, folder=tmp_path, header=header_of(model))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {part_of(name) for name in changed} == (set(parts) or EVERYTHING)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert changed.isdisjoint(frozen)


def test_without_low_rank_updates_the_llm_is_a_part_of_its_own():
    model, grid = model_for(grid_spec()), grid_spec()
    train_only(model, ("projector",))
    model(collate([of_codes(grid, 1)], grid)).total.backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"audio_embedding.weight", "audio_norm.weight", "audio_head.weight"}


def test_a_part_in_which_nothing_is_trained_is_named():
    with pytest.raises(ValueError, match=r"names lora, of which the model trains nothing; it trains llm, projector"):
        train_only(model_for(grid_spec()), ("projector", "lora"))


def test_an_optimizer_of_matrices_alone_has_no_other_beside_it():
    model = model_for(grid_spec(), lora_rank=2)
    train_only(model, ("lora",))
    (muon,) = make_optimizers(model, Training(optimizer="muon", only=("lora",)))
    assert sum(len(group["params"]) for group in muon.param_groups) == 2 * 4 * model.shape.num_layers
