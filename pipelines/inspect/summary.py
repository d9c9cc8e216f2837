"""The table at the end of a run: what there is, and where."""

from pipelines.plan.context import RunOptions
from pipelines.reporting import console
from pipelines.reporting.mlflow_client import tracking_uri
from pipelines.run import RunResult
from pipelines.stages.score_tables import SCORE_COLUMNS, SHORT, score_rows


def summarize(result: RunResult, options: RunOptions, seconds: float) -> None:
    """Print the table at the end: what there is, and where."""
    rows = [
        [name, console.count(s.num_rows), str(len(s.receipts)), s.merkle_root[:12], f"{options.output}/data/{name}"]
        for name, s in result.snapshots.items()
    ]
    console.table("", ["data set", "rows", "partitions", "Merkle root", "where"], rows)
    plan = result.plan
    if result.training:
        folder = plan.checkpoint_of("trained") if result.metrics else plan.last_checkpoint()
        console.line("checkpoint", str(folder))
    if result.metrics:
        console.table("", SCORE_COLUMNS, score_rows(result.metrics, SHORT))
        console.line("metrics", f"{plan.output.evaluation(plan.evaluation_key)}/metrics.json")
    uri = tracking_uri(options.output)
    console.line("MLflow", f"{console.program('mlflow')} ui --backend-store-uri {uri}")
    if result.training:
        console.line("lineage", f"{console.program('hubbub')} lineage {folder}")
    console.line("time", f"{seconds:.0f} s")
