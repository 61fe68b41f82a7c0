"""How long the texts of evaluations take: some are begun, and the seconds of a step are measured.

::

    seconds = sum over batches of  source tokens x seconds per source token
                                 + texts x tokens of the longest target x seconds per text and step

A text is taken to be as long as its target: a model that does not stop yet writes more.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from bigbatch.build.measured import Measured
from bigbatch.data.packs import cut
from bigbatch.infer.decoding import Batch, batch_of_pairs, by_transformers
from bigbatch.infer.forwards import inferring
from bigbatch.infer.generate import BATCH, marks_of, most_N
from bigbatch.infer.load import MICRO_TOKENS
from bigbatch.infer.sampling import Decoding
from bigbatch.metrics.bleu import is_written
from bigbatch.model.anatomy import device_of, headed_model
from bigbatch.model.source import quiet
from bigbatch.samples import UNITS, Table
from bigbatch.tasks.ready import plain_runner
from bigbatch.tasks.seq2seq import SOURCE, Seq2Seq

_TEXTS, _FEW, _MORE = 32, 2, 10
"""Texts that are begun, and the tokens of each, first and then."""


def writing_seconds(on: Measured, slowdown: float = 1.0) -> dict[str, float]:
    """Split -> seconds that its texts take once; empty where nothing is written.

    Args:
        on: model, task and tables.
        slowdown: of a machine that is busy with something else.
    """
    task = on.ready.task
    tables = {name: table for name, table in on.tables.items() if name != "train" and len(table)}
    if not isinstance(task, Seq2Seq) or not any(map(is_written, task.metrics)) or not tables:
        return {}
    on.say("calibrating: how fast are texts written?")
    per_source, per_step = _measured(on, task, next(iter(tables.values())))
    return {name: _seconds(task, table, per_source, per_step) / slowdown for name, table in tables.items()}


def _measured(on: Measured, task: Seq2Seq, table: Table) -> tuple[float, float]:
    """Seconds of a source token, and of a text's step."""
    outer = headed_model(on.ready.module)
    order_N = np.argsort(table[SOURCE].lengths, kind="stable")
    middle = max(0, len(order_N) // 2 - _TEXTS // 2)
    chosen_B = order_N[middle : middle + _TEXTS]
    # Without end marks, so that no text ends early.
    marks = replace(marks_of(task), ends=())
    room = max(2, min(_MORE, task.most_written - len(marks.shown)))

    def seconds(tokens: int) -> float:
        batch: Batch = batch_of_pairs(
            table, chosen_B, np.full(len(chosen_B), tokens), marks, device_of(outer)
        )
        started = time.perf_counter()
        by_transformers(outer, batch, Decoding(beams=task.beams))
        return time.perf_counter() - started

    with inferring(plain_runner(on.ready)), quiet():
        seconds(_FEW)
        few, more = min(seconds(_FEW) for _ in range(2)), min(seconds(room) for _ in range(2))
    step = max(0.0, more - few) / max(1, room - _FEW)
    sources = max(1, int(table[SOURCE].lengths[chosen_B].sum()))
    return max(0.0, few - _FEW * step) / sources, step / len(chosen_B)


def _seconds(task: Seq2Seq, table: Table, per_source: float, per_step: float) -> float:
    bounds_N, lengths_N = most_N(task, table), table[SOURCE].lengths
    targets_N = np.minimum(table[UNITS].lengths, bounds_N)
    pieces = cut(lengths_N + bounds_N, BATCH * MICRO_TOKENS, "padded")
    steps = sum(len(chosen) * int(targets_N[chosen].max()) for chosen in pieces)
    return float(lengths_N.sum()) * per_source + steps * per_step
