"""Choices of evaluation that recipes name. Does not import what evaluates."""

from typing import Literal

Cut = Literal["quiet", "fixed", "reference"]
"""quiet: at the quietest place of each window's last third; fixed: after so many seconds; reference: where the
reference has a pause, which no one has who transcribes."""

JoinName = Literal["voices", "overlap", "likeness"]
"""How speakers are followed from one window to the next: by samples of their voices in the prompt, by the words and
times of audio that two windows share, by the likeness of their codes."""

BaselineName = Literal["no-speakers", "tokenizer"]
"""no-speakers: the reference's words by one speaker for all; tokenizer: the reference's words through the tokenizer."""

Heard = Literal["segments", "mixture"]
"""What a recognizer hears: segments, each turn of the reference cut out of the mixture, an oracle that gives it turns
and speakers; mixture, all of it in windows, whose words are by one speaker."""

Diarization = Literal["reference", "model"]
"""Who tells a checkpoint where each talker speaks, in task asr_talker: the reference, an oracle; or the checkpoint
itself, in a first pass of task asr_timed."""
