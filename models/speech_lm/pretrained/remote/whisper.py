"""Whisper for several talkers: the decoder attends to the frames of the sound and a short silence, not to 30 s.

model = AutoModelForSpeechSeq2Seq.from_pretrained(FOLDER, trust_remote_code=True)
model.transcribe(waveform)  # 16 kHz, float: [("s0", "good morning"), ("s1", "hello there")]
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.audio_utils import mel_filter_bank
from transformers.modeling_outputs import BaseModelOutput

RATE_HZ, FRAME_SAMPLES, COLUMN_SAMPLES = 16_000, 320, 1280


class HubbubWhisperConfig(WhisperConfig):  # type: ignore[misc]
    """Whisper's configuration, and what the decoder reads before an answer."""

    model_type = "hubbub_whisper"

    def __init__(
        self,
        tail_frames: int = 0,
        is_padded: bool = False,
        prompt_ids: tuple[int, ...] = (),
        end_id: int = 0,
        tag_ids: tuple[int, ...] = (),
        **options: Any,
    ) -> None:
        """Take the options.

        Args:
            tail_frames: encoder frames of silence behind the sound, which the decoder hears too.
            is_padded: whether the encoder is given 30 s, of which the decoder hears the sound and its tail alone.
            prompt_ids: token ids before an answer.
            end_id: token id that ends an answer.
            tag_ids: token ids of the talkers' tags, by order of arrival.
            options: Whisper's.
        """
        super().__init__(**options)
        self.tail_frames, self.is_padded, self.end_id = tail_frames, is_padded, end_id
        self.prompt_ids, self.tag_ids = list(prompt_ids), list(tag_ids)


class HubbubWhisper(WhisperForConditionalGeneration):  # type: ignore[misc]
    """Whisper whose encoder takes sound of any length up to its window."""

    config_class = HubbubWhisperConfig

    def hear(self, waveform: torch.Tensor) -> BaseModelOutput:
        """Return the frames (1, F, d) of a waveform (N,) at 16 kHz, and of the silence behind it.

        Raises:
            ValueError: it is empty, or longer than the window.
        """
        encoder, config = self.model.encoder, self.config
        columns = -(-len(waveform) // COLUMN_SAMPLES)
        frames = columns * (COLUMN_SAMPLES // FRAME_SAMPLES) + config.tail_frames
        if not columns or frames > config.max_source_positions:
            most_s = (config.max_source_positions - config.tail_frames) * FRAME_SAMPLES / RATE_HZ
            raise ValueError(f"the model hears up to {most_s:g} s at once, not {len(waveform) / RATE_HZ:g} s")
        length = (config.max_source_positions if config.is_padded else frames) * FRAME_SAMPLES
        sound = F.pad(waveform.float(), (0, length - len(waveform)))
        mel = self._log_mel(sound, length == config.max_source_positions * FRAME_SAMPLES)
        x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel[None].to(encoder.conv1.weight.dtype))))).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        for layer in encoder.layers:
            made = layer(x, None)
            x = made[0] if isinstance(made, tuple) else made
        return BaseModelOutput(last_hidden_state=encoder.layer_norm(x)[:, :frames])

    def _log_mel(self, sound: torch.Tensor, is_whole: bool) -> torch.Tensor:
        """Return the log-mel spectrogram (bands, frames), as Whisper's feature extractor makes it."""
        bank = mel_filter_bank(201, self.config.num_mel_bins, 0.0, 8000.0, RATE_HZ, norm="slaney", mel_scale="slaney")
        padded = F.pad(sound, (200, 200))
        padded[:200] = padded[201:401].flip(0)
        if is_whole:  # at the end of its window the extractor mirrors the sound, which elsewhere is silence
            padded[-200:] = padded[-401:-201].flip(0)
        window = torch.hann_window(400, device=sound.device)
        power = torch.stft(padded, 400, 160, window=window, center=False, return_complex=True)[:, :-1].abs() ** 2
        filters = torch.as_tensor(bank, dtype=torch.float32, device=sound.device).T
        levels = torch.clamp(filters @ power, min=1e-10).log10()
        return (torch.maximum(levels, levels.max() - 8.0) + 4.0) / 4.0

    @torch.no_grad()
    def transcribe(self, waveform: torch.Tensor, max_new_tokens: int = 200) -> list[tuple[str, str]]:
        """Return who says what in a waveform (N,) at 16 kHz: (tag, text), tags by order of arrival."""
        heard = self.hear(waveform.to(self.device))
        ids = torch.tensor([self.config.prompt_ids], device=self.device)
        found: list[tuple[str, list[int]]] = []
        for _ in range(min(max_new_tokens, self.config.max_target_positions - ids.shape[1])):
            logits = self(encoder_outputs=heard, decoder_input_ids=ids).logits[0, -1]
            token = int(logits.argmax())
            if token == self.config.end_id:
                break
            if token in self.config.tag_ids:
                found.append((f"s{self.config.tag_ids.index(token)}", []))
            elif found:
                found[-1][1].append(token)
            else:
                found.append(("s0", [token]))
            ids = torch.cat([ids, torch.tensor([[token]], device=self.device)], dim=1)
        words = Tokenizer.from_file(str(Path(self.config.name_or_path) / "tokenizer.json"))
        return [(tag, words.decode(tokens).strip()) for tag, tokens in found]
