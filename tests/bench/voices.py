"""Synthesizers: seconds of speech a CPU second on one core, of about 30 s of it each; loading is left out.

`make bench-voices`. Prints one JSON object. Those that are not installed are left out with what to install; Kokoro's
folder is looked for in runs/kokoro, or where HUBBUB_KOKORO says.
"""

import itertools
import json
import os
import resource
import subprocess
import sys

from operators.corpus.stories import sentences
from operators.corpus.voices import SYNTHESIZERS, load_synthesizer, synthesizer_entry
from operators.errors import InputError

SPEECH_S = {"espeak": 3000, "flite": 1500, "hibari": 1600, "kokoro": 25}
"""Speech of each, after which 30 s of CPU are used."""
KOKORO = os.environ.get("HUBBUB_KOKORO", "runs/kokoro")


def say(family, speech_s):
    """Speak two sentences at a time, all voices in turn, until there is so much speech; return how much there is."""
    synthesizer, said_s = load_synthesizer(family), 0.0
    told = (" and ".join(sentences(0, story, 2)) for story in itertools.count())
    voices = itertools.cycle(synthesizer.voices())
    while said_s < speech_s:
        said_s += len(synthesizer.speak(next(voices), next(told))) / synthesizer.rate_hz
    return said_s


def measured(family, speech_s):
    """Speech and CPU time, both in seconds, of a process of its own and of those that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "tests.bench.voices", family, str(speech_s)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return float(done.stdout), cpu_s


def main():
    found = {}
    for name in SYNTHESIZERS:
        family = f"{name}:{KOKORO}" if synthesizer_entry(name).needs_folder else name
        try:
            load_synthesizer(family)
        except InputError as error:
            found[name] = {"left_out": str(error)}
            continue
        (start_speech_s, start_cpu_s), (speech_s, cpu_s) = measured(family, 0.1), measured(family, SPEECH_S[name])
        times = (speech_s - start_speech_s) / (cpu_s - start_cpu_s)
        found[name] = {"times_real_time_of_a_core": round(times, 2), "cpu_s": round(cpu_s, 1), "speech_s": speech_s}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    if sys.argv[1:]:
        print(say(sys.argv[1], float(sys.argv[2])))
    else:
        main()
