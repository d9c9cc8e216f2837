"""A model that started from Whisper, written as a folder that loads without this project."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.codecs.codec import unpack_codes
from models.sequence.batch import collate
from models.speech_lm.pretrained.start import export
from tests.models.support import header
from tests.models.whisper_support import GRID, PCM, document, load, save_whisper

pytest.importorskip("transformers")
OURS = 55

SCRIPT = """
import sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSpeechSeq2Seq

assert not any(name.split(".")[0] in ("models", "operators", "pipelines") for name in sys.modules)
folder, given, out = sys.argv[1:]
model = AutoModelForSpeechSeq2Seq.from_pretrained(folder, trust_remote_code=True).eval()
data = load_file(given)
with torch.no_grad():
    heard = model.hear(data["waveform"])
    logits = model(encoder_outputs=heard, decoder_input_ids=data["ids"]).logits[0]
save_file({"logits": logits.contiguous(), "frames": heard.last_hidden_state.contiguous()}, out)
print(model.transcribe(data["waveform"], 8))
"""


@pytest.mark.parametrize("options", [{}, {"encoder_window": "full"}, {"lora_rank": 2, "encoder_rank": 2}])
def test_an_exported_folder_gives_the_same_logits_in_a_process_without_this_project(tmp_path, options):
    save_whisper(tmp_path / "whisper")
    model, tokenizer = load(tmp_path / "whisper", encoder_tail_s=0.1, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("update_up"):
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif name.endswith("qkv.bias"):
                parameter.add_(0.3)  # keys get one in training
    one = document(0, tokenizer, "good day", 0.8)
    made = replace(header(GRID), tokenizer_file=str(tmp_path / "whisper" / "tokenizer.json"))
    export(model, made, tmp_path / "folder")
    batch = collate([one], GRID)
    with torch.no_grad():
        wanted = model.text_logits(model.eval().states(batch))[batch.text_from]
    codes = unpack_codes(one.codes, 1280, 16)
    wav = torch.from_numpy(PCM.decode(codes, codes.shape[1] * 1280))
    size = model.vocabulary.text_size
    ids = torch.tensor([[(int(i) - OURS) % size for i in (*model.shape.prefix, *one.text_tokens)]])
    save_file({"waveform": wav, "ids": ids}, tmp_path / "given.safetensors")
    folders = [str(tmp_path / name) for name in ("folder", "given.safetensors", "out.safetensors")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    ran = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, *folders], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = load_file(tmp_path / "out.safetensors")
    answer = len(wanted)
    got = found["logits"][-answer - 1 : -1].roll(OURS, dims=1)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=2e-3)
    assert wanted.std() > 1
    assert "[(" in ran.stdout


def test_what_whisper_has_no_place_for_is_not_written(tmp_path):
    save_whisper(tmp_path / "whisper")
    model, _ = load(tmp_path / "whisper", diarization="frames")
    with pytest.raises(ValueError, match="told whom to hear"):
        export(model, header(GRID), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_an_untrained_model_exports_as_the_weights_that_it_started_from(tmp_path):
    theirs = save_whisper(tmp_path / "whisper")
    model, _ = load(tmp_path / "whisper")
    export(model, header(GRID), tmp_path / "folder")
    written = load_file(tmp_path / "folder" / "model.safetensors")
    for name, tensor in theirs.state_dict().items():
        if name == "proj_out.weight":  # the same as the table of tokens
            continue
        mine = written[name]
        assert np.array_equal(mine[: len(tensor)].numpy(), tensor.numpy()), name
