"""pack: codes -> documents -> packs, the sequences that training reads."""

import pyarrow as pa

from models.tokenizer import ByteTokenizer
from operators.dataset import Quarantined, Receipt, RowWriter
from operators.digest import canonical_json
from operators.schema import CODES, DOCUMENTS, PACKS, check_chain
from pipelines.partitions import Job, usable
from pipelines.recipes import Recipe
from pipelines.simulate import receipt_of

PACKS_PER_RECORD_BATCH = 64


def check(recipe: Recipe) -> None:
    """Check that each operator is given what it reads."""
    check_chain(CODES, recipe.compose, recipe.pack)


def make_packs(job: Job) -> Receipt:
    """Make one shard of packs of a group of partitions of codes."""
    recipe, source = job.recipe, job.output.dataset("codes")

    def fill(writer: RowWriter) -> None:
        composed = [
            usable(recipe.compose, batch, writer)  # prompt and target on the token grid
            for upstream in job.payload
            for batch in source.batches(receipt_of(source, upstream["partition_id"], upstream["key"]))
        ]
        documents = pa.concat_tables([part.cast(DOCUMENTS) for part in composed] or [DOCUMENTS.empty_table()])
        fits = recipe.pack.fits(documents)
        for document in documents.filter(pa.compute.invert(fits)).select(["document_id", "num_columns"]).to_pylist():
            reason = f"{document['num_columns']} columns, more than a pack's {recipe.pack.capacity}"
            writer.quarantined.append(Quarantined(row_id=document["document_id"], reason=reason))
        packs = recipe.pack(documents.filter(fits))  # best fit; no document is cut
        for start in range(0, packs.num_rows, PACKS_PER_RECORD_BATCH):
            writer.write(packs.slice(start, PACKS_PER_RECORD_BATCH))
        writer.count(
            documents=documents.num_rows,
            columns=sum(packs["num_columns"].to_pylist()),
            room=packs.num_rows * recipe.pack.capacity,
            text_tokens=sum(len(tokens) for tokens in packs["text_tokens"].to_pylist()),
        )

    metadata = {
        "hubbub.codec": canonical_json(recipe.encode.spec),
        "hubbub.layout": canonical_json({"name": recipe.compose.layout, "group": recipe.compose.group}),
        "hubbub.tokenizer": canonical_json({"name": ByteTokenizer.name, "digest": ByteTokenizer().digest}),
        "hubbub.capacity": str(recipe.pack.capacity),
    }
    return job.output.dataset("packs").commit(job.partition, PACKS, metadata, fill)
