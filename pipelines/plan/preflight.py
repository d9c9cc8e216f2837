"""What would stop a recipe on a cluster, found before work is submitted."""

from pathlib import Path

from cluster import preflight
from cluster.session import Session
from models.codecs import codec_entry
from operators.errors import InputError
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console


def check_cluster(recipe: Recipe, session: Session, output: Path, store: str, train_workers: int) -> None:
    """Check a cluster before work is submitted to it.

    Raises:
        InputError: names everything that would stop the run.
    """
    if session.address == "local":
        return
    manifests = [*recipe.corpus.manifests, *recipe.corpus.recorded]
    paths = [text.partition("=")[2] if "=" in text else text for text in manifests]
    paths = [path for path in paths if "://" not in path] + ([] if store else [str(output.absolute())])
    asks_gpu = codec_entry(recipe.encode.codec).runs_on_gpu and recipe.encode.device != "cpu"
    nodes = [node for node in preflight.look(paths) if node.cpus or not node.alive]  # a head node may do no work
    if not nodes:  # autoscaling adds them when there is work
        console.notice("no node offers a CPU yet; work waits until one does")
        return
    found = preflight.problems(nodes, train_workers=train_workers, gpu_stages=asks_gpu and session.num_gpus > 0)
    if found:
        raise InputError(f"the cluster at {session.address} cannot do this: {'; '.join(found)}")
