"""The command line: the table of verbs, the usage that follows from it, and how errors end."""

import difflib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version

from cluster import stopping
from models.config.secrets import masked
from operators.errors import InputError, disk_fault
from operators.store.remote import StorageError
from pipelines.reporting import console


@dataclass(frozen=True)
class Verb:
    """One verb of the command line."""

    arguments: str
    """What it takes, as the usage shows it."""
    help: str
    """What it does, in a line."""
    function: str
    """`module:function` below `pipelines.cli`; imported when the verb is used, so that help needs none of them."""


VERBS: dict[str, Verb] = {
    "run": Verb("RECIPE", "all stages; what is done stays done", "stages:run_all"),
    "simulate": Verb(
        "RECIPE", "recordings -> conversations (who speaks when)  [--truth rttm stm seglst ...]", "stages:simulate"
    ),
    "tokenize": Verb("RECIPE", "... -> codes (the mixtures, by a codec)", "stages:tokenize"),
    "pack": Verb("RECIPE", "... -> packs (training sequences in Arrow shards)  [--compare]", "stages:pack"),
    "train": Verb("RECIPE", "... -> checkpoints", "stages:train"),
    "evaluate": Verb("RECIPE", "... -> cpWER", "stages:evaluate"),
    "plan": Verb("RECIPE", "what would run, what is fresh, and why; starts nothing", "stages:plan"),
    "transcribe": Verb("FILE... --checkpoint DIR", "who said what", "use:transcribe"),
    "speak": Verb("SCRIPT --checkpoint DIR", "a dialogue as audio, by a model trained on task speak", "use:speak"),
    "score": Verb(
        "REFERENCE HYPOTHESIS", "WER, cpWER, tcpWER, DER ... of any system, with intervals  [--audio]", "score:score"
    ),
    "compare": Verb("REFERENCE A B", "two systems on the same sessions: difference, interval, p", "score:compare"),
    "lineage": Verb("ID", "where a checkpoint, data set or run came from; what it became", "inspect:lineage"),
    "verify": Verb("RECIPE", "whether every committed byte is unchanged", "stages:verify"),
    "data": Verb("VERB ...", "", "data:data"),
    "sweep": Verb("RECIPE --grid train.lr=1e-3,3e-3", "a small grid that shares every stage it can", "stages:sweep"),
    "report": Verb("OUTPUT", "one page: what was run, on what, how well, and where it came from", "inspect:report"),
    "cluster": Verb("submit|status|preflight", "hand a run to a cluster as a Ray Job", "cluster:cluster"),
    "doctor": Verb("", "what this machine can do", "inspect:doctor"),
}

_HEAD = """[bold]hubbub[/bold]: from corpora of single speakers to a trained speech-LLM that follows several talkers

  hubbub run demo                        all stages, in eight minutes on two cores
  hubbub run demo --train.steps 2000     the same with one thing changed
  hubbub run my.yaml                     a recipe of your own
  hubbub run custom --corpus.manifests train=DIR test=DIR
"""
_WIDTH = 11


def usage() -> str:
    """Return the overview of all verbs."""
    from pipelines.cli.data import DATA_VERBS
    from pipelines.recipes.named import RECIPES

    lines = []
    for name, verb in VERBS.items():
        if name == "data":
            lines += _wrapped(name, [f"{one} {arguments}".strip() for one, (arguments, _) in DATA_VERBS.items()])
            continue
        takes = "" if verb.arguments in ("RECIPE", "") else f"{verb.arguments:<27} "
        lines.append(f"  {name:<{_WIDTH}}{takes}{verb.help}")
    recipes = f"Recipes: {', '.join(RECIPES)}, or a .yaml or .json file.  Options of a verb: hubbub run demo --help"
    return "\n".join([_HEAD, *(line.replace("[", "\\[") for line in lines), "", recipes, ""])


def _wrapped(name: str, parts: Sequence[str]) -> list[str]:
    """Return the verbs below a verb, a few on each line."""
    lines, line = [], f"  {name:<{_WIDTH}}"
    for number, part in enumerate(parts):
        text = part + (" | " if number + 1 < len(parts) else "")
        if len(line) + len(text) > 110:
            lines.append(line.rstrip())
            line = " " * (_WIDTH + 2)
        line += text
    return [*lines, line.rstrip()]


def function_of(verb: str) -> Callable[[Sequence[str]], None]:
    """Return what a verb runs.

    Raises:
        InputError: there is no such verb.
    """
    if verb in VERBS:
        module, _, name = VERBS[verb].function.partition(":")
        function: Callable[[Sequence[str]], None] = getattr(import_module(f"pipelines.cli.{module}"), name)
        return function
    from pipelines.stages import stage_names

    if verb in stage_names():  # a stage of one's own is a verb without being listed above
        from pipelines.cli.stages import stage_verb

        return stage_verb(verb, verb)
    near = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(VERBS)}"
    raise InputError(f"there is no verb {verb}; {hint}")


def main() -> None:
    """Run one verb; errors that the user can fix are one line and exit code 2."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        console.OUT.print(usage())
        return
    if arguments[0] in ("-V", "--version", "version"):
        console.OUT.print(f"hubbub {version('hubbub')}")
        return
    verb, rest = arguments[0], arguments[1:]
    stopping.install()
    for noisy in ("torchao", "torch.utils._pytree"):  # torchao, which transformers imports, warns of other GPUs' parts
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        _refuse_habits(verb, rest)
        function_of(verb)(rest)
    except InputError as error:
        _stop(str(error))
    except BrokenPipeError:
        os._exit(0)
    except StorageError as error:
        _stop(f"{error}; what is made stays, run again to continue")
    except KeyboardInterrupt:
        console.ERR.print("stopped; run the same command again to continue")
        stopping.end_in(stopping.GRACE_S)
        sys.exit(stopping.exit_code())
    except Exception as error:  # noqa: BLE001 - a defect, whose traceback is printed without secrets
        if (refused := disk_fault(error)) is not None:
            _stop(f"{refused}; make room, or see to the folder's rights; what is made stays, run again to continue")
        if not _is_from_storage(error):
            sys.stderr.write(masked(traceback.format_exc()))
            sys.exit(1)
        _stop(
            f"object storage: {str(error).splitlines()[0]}; check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY; what is made stays, run again to continue"
        )


_HABITS = {
    "--dry-run": "hubbub plan RECIPE shows what would run and why, and starts nothing",
    "--resume": "every run goes on where the last one stopped: leave --resume out",
    "--overwrite": "nothing is overwritten: --update continues in the folder, --output names another",
    "--config": "a recipe's file comes right after the verb: hubbub run my.yaml",
    "--seed-everything": "all randomness has one root: --seed N",
}
"""Options that other programs have, and what there is instead."""


def _refuse_habits(verb: str, arguments: Sequence[str]) -> None:
    """Point to the right thing where an option of other programs is given.

    Raises:
        InputError: one is.
    """
    for argument in [verb, *arguments]:
        name = argument.partition("=")[0]
        if name in _HABITS:
            raise InputError(f"there is no {name}; {_HABITS[name]}")


def _stop(message: str) -> None:
    console.ERR.print(f"[red]error[/red]     {console.shown(message)}")
    sys.exit(2)


def _is_from_storage(error: BaseException | None) -> bool:
    """Return whether an error, or one that it came from, is that of an object store's client."""
    while error is not None:
        if type(error).__module__.partition(".")[0] in ("botocore", "aiobotocore", "s3fs", "gcsfs", "adlfs"):
            return True
        error = error.__cause__ or error.__context__
    return False
