"""The analysis of a run's own micro-batch: what `bigbatch plan --graph` shows and `RUN/graph.json` keeps."""

from __future__ import annotations

from bigbatch.data.lengths import padding_by_way
from bigbatch.data.packs import micro_batches
from bigbatch.graph.analyse import analyse, middle
from bigbatch.model.anatomy import anatomy
from bigbatch.plan.graph import GraphAnalysis
from bigbatch.run.build import Parts


def analyse_parts(parts: Parts) -> GraphAnalysis:
    """Trace the middle micro-batch of the first update, as training will run it; changes nothing."""
    batch = parts.batches.at(0, 1)
    pieces = list(micro_batches(batch, parts.train, micro_tokens=parts.micro_tokens, packing=parts.packing))
    return analyse(
        parts.forward,
        parts.task,
        parts.module,
        anatomy(parts.module),
        middle(pieces),
        padding=padding_by_way(batch.lengths_B, parts.micro_tokens),
    )
