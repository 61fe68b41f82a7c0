"""`make mutants`: plants one fault at a time in a copy of the sources and checks that a test notices.

Each fault is a small patch (a unique piece of text and what replaces it) with the tests that must fail. A fault
that no test notices has *survived*; a patch that no longer applies is *stale*. Both end with exit code 1. The tests
are run once without any fault first: a failure that was there before would kill every fault.

    python tools/mutants.py                  # all
    python tools/mutants.py mean-of-means    # some, by name
    python tools/mutants.py --list
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "bigbatch"
TIMEOUT_SECONDS = 900


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A planted fault."""

    name: str
    fault: str
    """What a careless programmer would have written, in one line."""
    patches: Sequence[tuple[str, str, str]]
    """(file under src/bigbatch, text that occurs in it once, text instead)."""
    tests: Sequence[str]
    """What pytest is given: at least one of these must fail."""


SPLIT, FAMILIES, EXACT = "tests/step/test_split.py", "tests/step/test_families.py", "tests/run/test_exact.py"
PRECISION = "tests/build/test_formats.py"
LANGUAGE = "tests/step/test_language_split.py"
IMAGES = "tests/step/test_image_split.py"
STAGES = "tests/run/test_stages.py"

MUTANTS = (
    # ------------------------------------------------------------ beside runs
    Mutant(
        name="sent-again-after-resume",
        fault="an update that a resume made again is sent to a tracker again",
        patches=(("track/entries.py", "            if step <= self.update:", "            if step < 0:"),),
        tests=("tests/track/test_sending.py",),
    ),
    Mutant(
        name="offset-alone",
        fault="a journal is read on from its offset, although a resume put another file in its place",
        patches=(("report/following.py", "_seal(file, self.mark.offset) != self.mark.seal", "False"),),
        tests=("tests/report/test_following.py",),
    ),
    Mutant(
        name="remembered-before-sent",
        fault="the place in the journal is written down before its records are sent",
        patches=(
            (
                "track/sending.py",
                "            if entries:\n",
                "            sent.mark = follower.mark\n            sent.write()\n            if entries:\n",
            ),
        ),
        tests=("tests/track/test_sending.py",),
    ),
    Mutant(
        name="watch-through-links",
        fault="the page follows a link that lies where a run's journal should be",
        patches=(("report/following.py", "open_plain(self.path, links=False)", "open_plain(self.path)"),),
        tests=("tests/watch/test_observed.py",),
    ),
    Mutant(
        name="watch-first-by-name",
        fault="of many runs the page shows those whose names come first",
        patches=(
            (
                "watch/runs.py",
                "(_runs_below(str(root), _DEPTH), _MOST_LOOKED",
                "(_runs_below(str(root), _DEPTH), MOST_RUNS",
            ),
        ),
        tests=("tests/watch/test_observed.py::test_of_many_runs_those_that_were_touched_last",),
    ),
    Mutant(
        name="watch-any-host",
        fault="the page answers under any name that points at this machine",
        patches=(("watch/server.py", 'not in (f"127.0.0.1:{port}", f"localhost:{port}")', "in ()"),),
        tests=("tests/watch/test_server.py",),
    ),
    # ------------------------------------------------------------ serving
    Mutant(
        name="served-to-the-wrong-one",
        fault="each request of a batch is told the batch's first rows",
        patches=(
            (
                "serve/work.py",
                "        job.tell([next(left) for _ in job.work.placed])",
                "        job.tell(answers[: len(job.work.placed)])",
            ),
        ),
        tests=("tests/serve/test_predict.py",),
    ),
    Mutant(
        name="any-token",
        fault="a request with the right word in front of its token needs no right token",
        patches=(
            (
                "serve/guard.py",
                'if kind.lower() != "bearer" or not any(fits):',
                'if kind.lower() != "bearer" and not any(fits):',
            ),
        ),
        tests=("tests/serve/test_guard.py",),
    ),
    Mutant(
        name="reload-drops",
        fault="a newer model takes over and nobody answers what the former one had",
        patches=(
            (
                "serve/models.py",
                "                former.close(self._limits.drain_seconds)",
                "                former.queue.abandon()",
            ),
        ),
        tests=("tests/serve/test_server.py",),
    ),
    # ------------------------------------------------------------ what answers are held against
    Mutant(
        name="difference-of-answers-is-a-sum",
        fault="a bag of words is fitted on the words of both answers of a pair, not on their difference",
        patches=(
            (
                "run/baseline/prefer.py",
                "values = np.where(first_E, found.values, -found.values)",
                "values = np.where(first_E, found.values, found.values)",
            ),
        ),
        tests=("tests/run/baseline/test_answers.py",),
    ),
    Mutant(
        name="answers-at-the-question's-words",
        fault="the stretch nearest to a question's words may hold them",
        patches=(("run/baseline/span.py", "- 2.0 * (sums_N", "+ 2.0 * (sums_N"),),
        tests=("tests/run/baseline/test_answers.py",),
    ),
    # ------------------------------------------------------------ adapters
    Mutant(
        name="adapters-without-head",
        fault="beside adapters the task's new head is frozen with the rest",
        patches=(
            (
                "model/adapters.py",
                "            item.requires_grad_(True)",
                "            item.requires_grad_(False)",
            ),
        ),
        tests=("tests/model/test_adapters.py",),
    ),
    Mutant(
        name="adapters-scaled-twice",
        fault="alpha is divided by the rank before PEFT divides it",
        patches=(
            ("model/adapters.py", '"lora_alpha": int(spec.alpha)', '"lora_alpha": int(spec.alpha / spec.r)'),
        ),
        tests=("tests/model/test_adapters.py",),
    ),
    Mutant(
        name="adapters-of-any-base",
        fault="a checkpoint of adapters goes on beside whatever base model is there",
        patches=(("store/keeper.py", "if stored != self.base:", "if False:"),),
        tests=("tests/run/test_adapters.py",),
    ),
    Mutant(
        name="quantised-backward-of-another-weight",
        fault="backward multiplies by the codes' weight turned the wrong way in scale: by half of it",
        patches=(
            (
                "model/quantised.py",
                "return grad @ ctx.layer.weight.to(grad.dtype), None",
                "return grad @ (ctx.layer.weight / 2).to(grad.dtype), None",
            ),
        ),
        tests=("tests/model/test_quantised.py",),
    ),
    Mutant(
        name="quantised-rows-instead-of-blocks",
        fault="bitsandbytes is given the weight's own rows, whose blocks it mistakes on CPUs",
        patches=(
            (
                "model/quantised.py",
                "shape=torch.Size((len(layer.scales), _BLOCK))",
                "shape=torch.Size((layer.out_features, layer.in_features))",
            ),
        ),
        tests=("tests/model/test_quantised.py",),
    ),
    Mutant(
        name="quantised-forgotten-by-the-folder",
        fault="the folder of a run with a rounded base does not say so, and is opened beside fp32",
        patches=(("model/quantised.py", "    setattr(model.config, IN_CONFIG, to)\n", ""),),
        tests=("tests/run/test_quantised.py",),
    ),
    Mutant(
        name="quantised-start-in-fp32",
        fault="preferences beside a rounded base are told by the model in fp32",
        patches=(("infer/start.py", 'adapter.base != "fp32"', 'adapter.base == "none"'),),
        tests=("tests/run/test_quantised.py",),
    ),
    Mutant(
        name="adapters-at-the-rate-of-whole-models",
        fault="lr: auto of adapters follows the width, as that of whole models",
        patches=(("rules/first_run.py", "if known.adapters:", "if False:"),),
        tests=("tests/rules/test_first_run.py",),
    ),
    Mutant(
        name="adapters-in-another-model",
        fault="adapters are opened in the base's own configuration, not in the one that they learnt in",
        patches=(("model/load.py", "wanted, dropout, config=config)", "wanted, dropout)"),),
        tests=("tests/model/test_adapters.py",),
    ),
    Mutant(
        name="adapters-cut-across",
        fault="where products are cut, the other matrix of an adapter is",
        patches=(("parallel/tensor.py", '"lora_B" if role', '"lora_A" if role'),),
        tests=("tests/parallel/test_adapters.py",),
    ),
    Mutant(
        name="head-of-a-first-answer-is-learnt",
        fault="of an answer that nobody asked for, what the template writes in front of it counts",
        patches=(("tasks/dialogue.py", "return whole[: place + len(head)]", "return whole[:place]"),),
        tests=("tests/tasks/test_chat_shapes.py",),
    ),
    # ------------------------------------------------------------ sums, denominators, clipping
    Mutant(
        name="noise-by-place-in-the-batch",
        fault="what is drawn follows from a text's place in its batch instead of its row",
        patches=(("infer/texts.py", "[prompts[row].number for row in chosen_B]", "[*range(len(chosen_B))]"),),
        tests=("tests/infer/test_texts.py",),
    ),
    Mutant(
        name="mean-of-means",
        fault="every micro-batch averages its own losses, and the averages are averaged",
        patches=(
            (
                "step/executor.py",
                "walk = Walk(micro_batches)",
                "micro_batches = list(micro_batches)\n"
                "        self._rule.pieces = len(micro_batches)\n"
                "        walk = Walk(micro_batches)",
            ),
            (
                "step/executor.py",
                "shares_of(self._task.loss(self._forward(micro_batch), targets), denominators)",
                "{\n"
                "            term: values.sum() / targets.weights.sum() / self.pieces\n"
                "            for term, values in self._task.loss(self._forward(micro_batch), targets).items()\n"
                "        }",
            ),
        ),
        tests=(SPLIT,),
    ),
    Mutant(
        name="pair-positions-of-the-pack",
        fault="the positions of a packed encoder and decoder run on from one sample to the next",
        patches=(
            (
                "model/pairs.py",
                "at_T = to_device(positions_in_sample(self.layout.cumulative_B1), output.device)",
                "at_T = torch.arange(self.layout.cumulative_B1[-1]).clamp(max=self.layout.longest - 1)",
            ),
        ),
        tests=("tests/model/test_feeds.py",),
    ),
    Mutant(
        name="denominator-after-forward",
        fault="the denominator is that of the last micro-batch, not of the global batch",
        patches=(
            (
                "step/together.py",
                "denominators = alone(world, lambda: self.task.denominators(batch.targets))",
                "pieces = list(pieces)\n        denominators = self.task.denominators(pieces[-1].targets)",
            ),
        ),
        tests=(SPLIT,),
    ),
    Mutant(
        name="weights-not-counted",
        fault="the weighted losses are divided by the number of units, not by their weights",
        patches=(
            (
                "tasks/labelled.py",
                "float(np.sum(targets.weights, dtype=np.float64))",
                "float(len(targets.weights))",
            ),
        ),
        tests=(SPLIT,),
    ),
    Mutant(
        name="class-weights-twice",
        fault="class weights are multiplied into weights that have them already",
        patches=(
            (
                "build/ready.py",
                "table.weighted(task.weigh(table.targets).weights)",
                "table.weighted(task.weigh(task.weigh(table.targets)).weights)",
            ),
        ),
        tests=(EXACT,),
    ),
    Mutant(
        name="clip-per-micro-batch",
        fault="the gradient is clipped before each further micro-batch, not once",
        patches=(
            (
                "step/together.py",
                "self.executor.accumulate(batch.update, watched, denominators)",
                "self.executor.accumulate(batch.update, (torch.nn.utils.clip_grad_norm_(self.parameters, self.clip"
                " or math.inf) is None or piece for piece in watched), denominators)",
            ),
        ),
        tests=(SPLIT,),
    ),
    Mutant(
        name="norm-after-clipping",
        fault="the record holds the norm of the clipped gradient",
        patches=(
            ("step/together.py", "grad_norm=grad_norm,", "grad_norm=min(grad_norm, self.clip or grad_norm),"),
        ),
        tests=(SPLIT,),
    ),
    Mutant(
        name="gradient-not-zeroed",
        fault="an update's gradient is added to the one before",
        patches=(
            (
                "step/together.py",
                "self.optimizer.zero_grad(set_to_none=True)\n        set_moments",
                "set_moments",
            ),
            ("step/together.py", "self.optimizer.zero_grad(set_to_none=True)\n        record", "record"),
        ),
        tests=(SPLIT,),
    ),
    Mutant(
        name="skipped-update-counts",
        fault="an update that is not finite still moves weights and optimiser state",
        patches=(("step/together.py", "    if finite:\n", "    if True:\n"),),
        tests=("tests/run/test_loop.py::test_a_broken_update_is_skipped_whole_and_the_clock_goes_on",),
    ),
    Mutant(
        name="decay-everywhere",
        fault="biases and norms decay too",
        patches=(("optim/groups.py", "0.0 if vectors else weight_decay", "weight_decay"),),
        tests=(EXACT,),
    ),
    Mutant(
        name="muon-turns-parts",
        fault="Muon makes each rank's part of a matrix orthogonal",
        patches=(("optim/muon.py", "whole = world.gathered_like(part, parameter)", "whole = part"),),
        tests=("tests/optim/test_muon.py::test_divided_matrices_are_put_together",),
    ),
    Mutant(
        name="lars-norms-of-parts",
        fault="LARS takes the norms of what this process holds",
        patches=(
            (
                "optim/lars.py",
                "squares = self._sum_of_squares(",
                "squares = (lambda t, of: local_sum_of_squares(t))(",
            ),
        ),
        tests=("tests/optim/test_lars.py::test_norms_of_whole_tensors_are_asked_for_once_a_step",),
    ),
    Mutant(
        name="layers-alike",
        fault="the learning rate of a layer does not depend on its depth",
        patches=(("optim/groups.py", "lr_scale=layer_decay**steps", "lr_scale=1.0"),),
        tests=("tests/optim/test_depths.py::test_rates_fall_from_the_head_down",),
    ),
    Mutant(
        name="average-computed-back",
        fault="after an evaluation schedule-free weights are computed from their average, which rounds",
        patches=(
            (
                "optim/schedule_free.py",
                "                            parameter.copy_(kept)",
                "                            parameter.lerp_(self.state[parameter]['z'], 1 - group['betas'][0])",
            ),
        ),
        tests=("tests/optim/test_schedule_free.py",),
    ),
    Mutant(
        name="warm-up-of-the-small-batch",
        fault="LEGW leaves the warm-up as it was typed",
        patches=(
            ("rules/warmup.py", "Quantity(old.amount * ratio, old.unit)", "Quantity(old.amount, old.unit)"),
        ),
        tests=("tests/rules/test_warmup.py",),
    ),
    # ------------------------------------------------------------ packing and padding
    Mutant(
        name="positions-run-on",
        fault="position ids run on across the samples of a pack",
        patches=(
            (
                "model/feeds.py",
                "positions_in_sample(cumulative_lengths(micro_batch.lengths_B), parts.position_offset)",
                "np.arange(micro_batch.tokens) % 40 + parts.position_offset",
            ),
        ),
        tests=(FAMILIES,),
    ),
    Mutant(
        name="positions-from-zero",
        fault="RoBERTa's positions start at 0, not behind the padding's",
        patches=(
            (
                "model/feeds.py",
                "cumulative_lengths(micro_batch.lengths_B), parts.position_offset)",
                "cumulative_lengths(micro_batch.lengths_B), 0)",
            ),
        ),
        tests=(FAMILIES,),
    ),
    Mutant(
        name="cumulative-lengths-off-by-one",
        fault="every boundary between two samples of a pack is one token late",
        patches=(
            (
                "model/layout.py",
                "    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths_B, dtype=np.int64)])",
                "    ends = np.cumsum(lengths_B, dtype=np.int64)\n    ends[:-1] += 1\n"
                "    return np.concatenate([np.zeros(1, dtype=np.int64), ends])",
            ),
        ),
        tests=(FAMILIES,),
    ),
    Mutant(
        name="leakage",
        fault="neighbours in a pack attend to each other",
        patches=(
            (
                "model/layout.py",
                "_group(cumulative_B1, first, end, device) for",
                "_group(cumulative_B1[[first, end]], 0, 1, device) for",
            ),
        ),
        tests=("tests/model/test_packing.py::test_another_sample_never_leaks", SPLIT),
    ),
    Mutant(
        name="mask-forgotten",
        fault="samples that share an attention call see each other's padding",
        patches=(("model/grouped.py", "    return group.real_BK, False", "    return None, False"),),
        tests=(SPLIT,),
    ),
    Mutant(
        name="padding-attended",
        fault="the padded path attends to padding",
        patches=(
            (
                "model/feeds.py",
                "to_device(real_BL.astype(np.int64), device)",
                "to_device(np.ones_like(real_BL, dtype=np.int64), device)",
            ),
        ),
        tests=(SPLIT,),
    ),
    Mutant(
        name="segments-forgotten",
        fault="the packed path knows no second text of a pair",
        patches=(
            (
                "model/feeds.py",
                "to_device(micro_batch.segments_T[None, :], device)",
                "to_device(0 * micro_batch.segments_T[None, :], device)",
            ),
        ),
        tests=(f"{SPLIT}::test_every_split_equals_the_whole_batch[pairs-512-packed-fp64]",),
    ),
    Mutant(
        name="first-sample-read",
        fault="the head reads the tokens of the pack's first sample for all",
        patches=(
            (
                "samples.py",
                "return self.table.reads.astype(np.int64) + np.repeat(",
                "return self.table.reads.astype(np.int64) + 0 * np.repeat(",
            ),
        ),
        tests=(SPLIT,),
    ),
    # ------------------------------------------------------------ long inputs
    Mutant(
        name="memory-with-gradient",
        fault="what is remembered is not cut off from the gradient",
        patches=(("model/memory.py", "torch.where(cut, key.detach(), key)", "key"),),
        tests=("tests/tasks/test_memory.py::test_documents_of_any_length",),
    ),
    Mutant(
        name="memory-of-another-document",
        fault="a piece remembers what stands in front of its document, too",
        patches=(
            (
                "data/blocks.py",
                "np.maximum(starts_S, firsts_S - memory_tokens)",
                "np.maximum(0, firsts_S - memory_tokens)",
            ),
        ),
        tests=("tests/tasks/test_memory.py::test_documents_of_any_length",),
    ),
    Mutant(
        name="memory-predicted-from-its-start",
        fault="units are read as if samples began with what they predict",
        patches=(
            (
                "data/blocks.py",
                "(targets_U - 1 - np.repeat(froms_S, targets_S))",
                "(targets_U - 1 - np.repeat(firsts_S, targets_S))",
            ),
        ),
        tests=("tests/tasks/test_memory.py::test_documents_of_any_length",),
    ),
    Mutant(
        name="written-behind-everything",
        fault="a model with a memory writes behind all that stands there, not behind what training shows",
        patches=(("infer/remembering.py", "if memory and length else None", "if False else None"),),
        tests=("tests/infer/test_remembering.py::test_every_token_is_written_behind_what_training_shows",),
    ),
    Mutant(
        name="drawn-anew-each-piece",
        fault="what is drawn begins from its first number again at the border of a piece",
        patches=(("infer/sampling.py", " if self.done_B is None else self.done_B)", ")"),),
        tests=("tests/infer/test_remembering.py::test_every_token_is_written_behind_what_training_shows",),
    ),
    Mutant(
        name="rounds-end-by-rank",
        fault="ranks that share a model take no further steps for a text that has ended",
        patches=(("infer/remembering.py", "(even or not over[row])", "not over[row]"),),
        tests=("tests/infer/test_remembering.py::test_ranks_that_share_a_model_take_the_same_steps",),
    ),
    Mutant(
        name="band-a-block-short",
        fault="a window's blocks of keys are rounded down",
        patches=(
            ("model/sparse.py", "-(-min(pattern.window - 1, n) // t)", "(min(pattern.window - 1, n) // t)"),
        ),
        tests=("tests/model/test_sparse.py",),
    ),
    Mutant(
        name="pairs-seen-twice",
        fault="keys that all see are seen by their neighbours once more",
        patches=(
            (
                "model/sparse.py",
                "        earlier = pattern.near(q, at_C)",
                "        earlier = pattern.near(q, at_C) & False",
            ),
        ),
        tests=("tests/model/test_sparse.py",),
    ),
    Mutant(
        name="dropout-of-another-piece",
        fault="the backward pass drops other pairs than the forward pass",
        patches=(
            (
                "model/sparse.py",
                "factors = None if seed is None else _factors(kept, dropout, seed, piece.number)",
                "factors = None if seed is None else _factors(kept, dropout, seed, piece.number + 1)",
            ),
        ),
        tests=("tests/model/test_sparse.py",),
    ),
    Mutant(
        name="places-of-padding",
        fault="blocks and first tokens are counted from the padding in front of a prompt",
        patches=(
            (
                "model/patterns.py",
                "k_K, q_Q1 = k_K - start_B111, q_Q1 - start_B111",
                "start_B111 = 0 * start_B111",
            ),
        ),
        tests=("tests/infer/test_long.py",),
    ),
    Mutant(
        name="pattern-from-the-packs-start",
        fault="FlexAttention counts places from the start of the pack",
        patches=(
            (
                "model/block_mask.py",
                "pattern.seen(at - start, key_at - start)",
                "pattern.seen(at + 0 * start, key_at)",
            ),
        ),
        tests=("tests/model/test_narrowed.py::test_packed_and_padded_are_the_masked_model",),
    ),
    Mutant(
        name="work-of-unseen-pairs",
        fault="useful work counts all pairs, whatever the pattern",
        patches=(
            (
                "study/work.py",
                "int(count) * pattern.pairs(int(length), causal)",
                "int(count) * int(length) ** 2",
            ),
        ),
        tests=("tests/study/test_work.py::test_of_attention_the_seen_pairs_count",),
    ),
    # ------------------------------------------------------------ shortcuts of the forward and backward pass
    Mutant(
        name="lazy-at-the-first-application",
        fault="a block that is applied several times is narrowed the first time already",
        patches=(("graph/lazy.py", "    if last.applied < last.applications:", "    if last.applied < 1:"),),
        tests=("tests/graph/test_lazy.py",),
    ),
    Mutant(
        name="rows-to-the-wrong-places",
        fault="what was computed for read tokens is put back one row late",
        patches=(
            (
                "graph/lazy.py",
                "scatter_rows(hidden_1RD[0], last.rows_R, last.tokens)",
                "scatter_rows(hidden_1RD[0].roll(1, 0), last.rows_R, last.tokens)",
            ),
        ),
        tests=("tests/graph/test_lazy.py",),
    ),
    Mutant(
        name="embedding-rows-of-the-last-update",
        fault="the buffer that takes embedding gradients is not emptied between updates",
        patches=(("step/executor.py", "parameter.grad = buffer.zero_()", "parameter.grad = buffer"),),
        tests=("tests/step/test_executor.py",),
    ),
    Mutant(
        name="dropout-not-scaled",
        fault="what dropout keeps is not scaled up",
        patches=(("model/chunked.py", "    return out.mul_(_DRAWS / (_DRAWS - dropped))", "    return out"),),
        tests=("tests/graph/test_dropout.py", "tests/model/test_chunked.py"),
    ),
    Mutant(
        name="scale-forgotten-in-the-backward-pass",
        fault="chunked attention scales scores forward, not the queries' gradient",
        patches=(
            (
                "model/chunked.py",
                "q_grad.mul_(ctx.scale).unflatten(0, samples)",
                "q_grad.unflatten(0, samples)",
            ),
        ),
        tests=("tests/model/test_chunked.py",),
    ),
    Mutant(
        name="other-masks-when-recomputed",
        fault="a recomputed block draws new dropout masks",
        patches=(
            (
                "graph/recompute.py",
                "_again = partial(checkpoint, use_reentrant=False)",
                "_again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)",
            ),
        ),
        tests=("tests/graph/test_recompute.py",),
    ),
    Mutant(
        name="prediction-without-a-trial",
        fault="the packed path predicts although its outputs differ",
        patches=(("infer/quick.py", "            if facts.packed_ok:", "            if True:"),),
        tests=("tests/infer/test_quick.py",),
    ),
    Mutant(
        name="products-without-a-gradient",
        fault="oneDNN multiplies as if no gradient were wanted, and none arrives",
        patches=(("model/products.py", "    if torch.is_grad_enabled():", "    if False:"),),
        tests=("tests/model/test_products.py",),
    ),
    Mutant(
        name="products-untried",
        fault="the faster library is taken whatever numbers it gives",
        patches=(("probe/products.py", "<= _ROUNDING * usual.abs().max()):", ">= 0 * usual.abs().max()):"),),
        tests=("tests/probe/test_products.py",),
    ),
    # ------------------------------------------------------------ several units a sample
    Mutant(
        name="reads-of-another-sample",
        fault="the padded path takes a unit's place in the pack for its place in the sample",
        patches=(
            (
                "model/feeds.py",
                "at_U = micro_batch.table.reads.astype(np.int64)",
                "at_U = micro_batch.reads_U % outputs.shape[1]",
            ),
        ),
        tests=("tests/model/test_heads.py", "tests/step/test_tag_split.py"),
    ),
    Mutant(
        name="embeddings-taken-for-a-head",
        fault="a language model whose embedding is missing gets a random one, since the output layer shares it",
        patches=(
            (
                "model/load.py",
                "owned -= {id(item) for part in parts.embeddings for item in part.parameters()}",
                "owned -= set()",
            ),
        ),
        tests=("tests/model/test_load_heads.py",),
    ),
    Mutant(
        name="tag-on-the-last-piece",
        fault="a word is read at its last piece",
        patches=(("tasks/tag.py", "enumerate((pieces or (0,))[", "enumerate((pieces[::-1] or (0,))["),),
        tests=("tests/tasks/test_tag.py",),
    ),
    Mutant(
        name="entities-across-sentences",
        fault="an entity goes on in the next sentence",
        patches=(
            (
                "metrics/entities.py",
                "return np.where(starts_W, outside, np.roll(values_W, 1))",
                "return np.roll(values_W, 1)",
            ),
        ),
        tests=("tests/metrics/test_entities.py",),
    ),
    Mutant(
        name="cut-words-forgotten",
        fault="words that were cut off count as whatever the token that stands in for them gives",
        patches=(
            (
                "metrics/entities.py",
                "np.where(np.asarray(extras[SEEN]) > 0, predictions.values, outside)",
                "np.asarray(predictions.values)",
            ),
        ),
        tests=("tests/metrics/test_entities.py",),
    ),
    # ------------------------------------------------------------ order, clocks, masks
    Mutant(
        name="order-depends-on-micro-batch",
        fault="which samples an update sees depends on the micro-batch size",
        patches=(
            (
                "build/build.py",
                "seed=recipe.seed.data,\n        samples=",
                "seed=recipe.seed.data + (recipe.plan.micro_tokens or 0),\n        samples=",
            ),
        ),
        tests=(EXACT,),
    ),
    Mutant(
        name="same-order-every-epoch",
        fault="every epoch visits the samples in the order of the first",
        patches=(("data/order.py", "epoch_order(self.seed, epoch, ", "epoch_order(self.seed, 0, "),),
        tests=("tests/data/test_order.py", EXACT),
    ),
    Mutant(
        name="one-epoch-for-all-sources",
        fault="samples of a mixture are seen as the epoch of the whole has them, although a source comes round sooner",
        patches=(
            (
                "data/mixture.py",
                "self._orders[source].epochs(first, len(places))",
                "(first_position + places) // self.samples",
            ),
        ),
        tests=("tests/data/test_mixture.py",),
    ),
    Mutant(
        name="sources-by-whole-denominator",
        fault="the loss of a source is divided by what the whole batch counts",
        patches=(
            (
                "step/by_source.py",
                "batch.targets.map(lambda each, own=owner_U == source: each[own])",
                "batch.targets",
            ),
        ),
        tests=("tests/run/test_mixture.py",),
    ),
    Mutant(
        name="answers-left-out-by-the-template",
        fault="a template that writes nothing of an answer teaches its end mark",
        patches=(("tasks/dialogue.py", "        _check_written(found, whole, messages)\n", ""),),
        tests=("tests/tasks/test_public_templates.py",),
    ),
    Mutant(
        name="end-of-all-in-every-answer",
        fault="what a template writes behind the last turn of all makes its earlier answers others",
        patches=(("tasks/dialogue.py", "    bare = told.removesuffix(end)\n", "    bare = told\n"),),
        tests=("tests/tasks/test_public_templates.py",),
    ),
    Mutant(
        name="suspects-of-train-alone",
        fault="rows that are hardly meant are looked for in training alone",
        patches=(
            (
                "data/suspicious.py",
                'in {"train": train, **others}.items()',
                'in {"train": train}.items()',
            ),
        ),
        tests=("tests/data/test_suspicious.py",),
    ),
    Mutant(
        name="calls-are-empty-answers",
        fault="a turn that calls a tool counts as an empty answer",
        patches=(("data/suspicious.py", "and not any(turn.get(name) for name in _CALLS)", "and True"),),
        tests=("tests/data/test_suspicious.py",),
    ),
    Mutant(
        name="source-steers-as-the-split",
        fault="the figure of a source is looked up in the split that it is a part of",
        patches=(
            (
                "run/choice.py",
                "    split, metric = figure_of(name, parts.judged)\n    value",
                "    split, metric = figure_of(name, parts.judged)\n"
                "    split = parts.evaluated_with(split)\n    value",
            ),
        ),
        tests=(
            "tests/run/test_mixture.py::test_the_figure_of_a_source_chooses_the_weights_and_holds_the_gate",
        ),
    ),
    Mutant(
        name="sources-are-shifted",
        fault="the figures of a source are those of rows that begin one further on",
        patches=(
            (
                "data/mixture.py",
                "part = table.take(np.arange(first, end))",
                "part = table.take(np.arange(first + 1, end + 1) % len(table))",
            ),
        ),
        tests=("tests/run/test_mixture.py",),
    ),
    Mutant(
        name="shard-unchecked",
        fault="a shard of a stream is whatever has its size",
        patches=(
            (
                "data/shelf.py",
                'if (size, digest) != (about["bytes"], about["sha256"]):',
                'if size != about["bytes"]:',
            ),
        ),
        tests=("tests/data/test_published.py",),
    ),
    Mutant(
        name="one-order-of-shards",
        fault="shards come in the same order in every epoch",
        patches=(("data/shards.py", "mixed(self.seed, _SHARDS, epoch)", "mixed(self.seed, _SHARDS)"),),
        tests=("tests/data/test_shards.py",),
    ),
    Mutant(
        name="parked-rows-unchecked",
        fault="rows on the disk are taken as they are, whatever has happened to them",
        patches=(("data/parked.py", '.hexdigest() != about["sha256"]', '.hexdigest() == ""'),),
        tests=("tests/data/test_shards.py",),
    ),
    Mutant(
        name="any-version-goes-on",
        fault="a transfer that broke off goes on with whatever version the server has by now",
        patches=(("remote/web.py", '"If-Range": tag}', '"X-Range": tag}'),),
        tests=("tests/remote/test_web.py",),
    ),
    Mutant(
        name="short-files-are-files",
        fault="a connection that ends early gives a file",
        patches=(
            (
                "remote/web.py",
                'raise OverflowError(length) if got > length else Interrupted("the connection ended early")',
                "if got > length:\n            raise OverflowError(length)",
            ),
            ("remote/keep.py", "answer.size_bytes is not None and part.stat()", "False and part.stat()"),
        ),
        tests=("tests/remote/test_web.py",),
    ),
    Mutant(
        name="password-follows-redirects",
        fault="the password of an address goes to every host that a redirect names",
        patches=(
            ("remote/web.py", "login = _login(first.netloc) if same else {}", "login = _login(first.netloc)"),
        ),
        tests=("tests/remote/test_web.py",),
    ),
    Mutant(
        name="secrets-in-the-recipe",
        fault="RUN/recipe.yaml has addresses as they were typed",
        patches=(
            ("recipe/load.py", "return shown(value) if isinstance(value, str) else value", "return value"),
        ),
        tests=("tests/run/test_elsewhere.py",),
    ),
    Mutant(
        name="blocks-across-sources",
        fault="documents of several sources are joined before they are cut into blocks",
        patches=(
            (
                "tasks/arranged.py",
                "    parts = []\n    for first, end in zip(sources",
                "    return replace(task.arrange(table), sources=sources)\n"
                "    parts = []\n    for first, end in zip(sources",
            ),
        ),
        tests=("tests/run/test_mixture.py",),
    ),
    Mutant(
        name="clocks-in-updates",
        fault="the learning rate counts updates instead of samples",
        patches=(
            (
                "rules/schedules.py",
                "return self.factor_at(first_sample + batch_samples / 2)",
                "return self.factor_at(float(first_sample // batch_samples))",
            ),
        ),
        tests=("tests/rules/test_schedules.py", EXACT),
    ),
    Mutant(
        name="lr-at-the-start",
        fault="the learning rate is the schedule's where the update begins",
        patches=(
            (
                "rules/schedules.py",
                "return self.factor_at(first_sample + batch_samples / 2)",
                "return self.factor_at(float(first_sample))",
            ),
        ),
        tests=("tests/rules/test_schedules.py", EXACT),
    ),
    Mutant(
        name="masks-in-sequence",
        fault="dropout masks are drawn one behind the other, so they depend on what ran before",
        patches=(
            (
                "step/executor.py",
                "shares = self._rule(micro_batch, denominators, self._passes.seed(update, micro_batch))",
                "seed = self._passes.seed(update, micro_batch) if micro_batch.index == 0 else lambda _: None\n"
                "                shares = self._rule(micro_batch, denominators, seed)",
            ),
        ),
        tests=("tests/step/test_executor.py",),
    ),
    Mutant(
        name="dropout-forgotten",
        fault="the model trains in eval mode",
        patches=(("step/together.py", "self.module.train()", "self.module.eval()"),),
        tests=("tests/run/test_loop.py::test_dropout_is_on_in_training_and_off_afterwards",),
    ),
    Mutant(
        name="evaluation-with-dropout",
        fault="evaluation leaves dropout on, and draws from the caller's generator",
        patches=(("infer/forwards.py", "part.training = False", "part.training = part.training"),),
        tests=("tests/infer/test_evaluate.py",),
    ),
    # ------------------------------------------------------------ language models
    Mutant(
        name="masks-keyed-on-the-cut",
        fault="masks are drawn by a sample's place in what is gathered, not by its number",
        patches=(
            (
                "tasks/mlm.py",
                "sample_states(self.facts.data_seed, TRAINING, epochs_B, rows_B)",
                "sample_states(self.facts.data_seed, TRAINING, epochs_B, np.arange(len(rows_B)))",
            ),
        ),
        tests=("tests/data/test_masks.py", LANGUAGE),
    ),
    Mutant(
        name="strands-reversed-without-complement",
        fault="the other strand is read backwards, and its letters stay as they are",
        patches=(
            (
                "tasks/strands.py",
                "new_T[moves_T] = self.complements_V[new_T[moves_T]]",
                "new_T[moves_T] = new_T[moves_T]",
            ),
        ),
        tests=("tests/tasks/test_strands.py",),
    ),
    Mutant(
        name="strands-by-place",
        fault="which samples are turned is drawn by their place in the piece, not by the sample",
        patches=(
            (
                "tasks/strands.py",
                "fractions_at(states_B, np.zeros(1, np.int64)) < self.share",
                "fractions_at(np.sort(states_B), np.zeros(1, np.int64)) < self.share",
            ),
        ),
        tests=("tests/tasks/test_strands.py",),
    ),
    Mutant(
        name="families-parted",
        fault="texts that are alike are dealt to different splits",
        patches=(
            (
                "files/similar.py",
                "above[max(a, b)] = min(a, b)",
                "pass",
            ),
        ),
        tests=("tests/files/test_parted.py",),
    ),
    Mutant(
        name="mixed-with-a-neighbour",
        fault="an image is mixed with one that happens to be near it in the batch",
        patches=(
            (
                "data/mixing.py",
                "others_B = (draw(states_B, OTHER) * len(table)).astype(np.int64)",
                "others_B = np.roll(np.asarray(drawn[IMAGE].rows), 1)",
            ),
        ),
        tests=("tests/data/test_mixing.py", "tests/step/test_image_split.py"),
    ),
    Mutant(
        name="boxes-of-a-micro-batch",
        fault="no object weighs 0.1 in a micro-batch, and 1 in what the batch is divided by",
        patches=(
            (
                "tasks/box_losses.py",
                "classes = weights_B * (pairs_B + no_object * (given_B - pairs_B))",
                "classes = weights_B * given_B",
            ),
        ),
        tests=("tests/step/test_detect_split.py",),
    ),
    Mutant(
        name="detector-counts-statistics",
        fault="a detector's BatchNorms normalise over the micro-batch while training",
        patches=(
            (
                "model/vision.py",
                "            part.__class__ = kind\n            part.train(False)\n",
                "            pass\n",
            ),
        ),
        tests=("tests/step/test_detect_families.py",),
    ),
    Mutant(
        name="detector-by-torchs-own-backward",
        fault="a BatchNorm that keeps its statistics uses torch's own, whose gradient of a single image is wrong",
        patches=(
            (
                "model/vision.py",
                "        return input * scale_C.view(wide) + shift_C.view(wide)",
                "        return super().forward(input) + 0 * shift_C.view(wide)",
            ),
        ),
        tests=("tests/step/test_detect_families.py",),
    ),
    Mutant(
        name="detector-taught-last-boxes-alone",
        fault="of RT-DETR's sets of boxes only the last layer's is taught",
        patches=(("tasks/box_losses.py", ".unbind(1)[:rounds]:", ".unbind(1)[:1]:"),),
        tests=("tests/step/test_detect_families.py",),
    ),
    Mutant(
        name="boxes-stay-where-they-were",
        fault="an image is mirrored and its boxes are not",
        patches=(
            (
                "data/augment.py",
                "np.where(mirrored_U, 1 - found_U[:, CENTRE_X], found_U[:, CENTRE_X])",
                "found_U[:, CENTRE_X]",
            ),
        ),
        tests=("tests/step/test_detect_split.py",),
    ),
    Mutant(
        name="export-unlike",
        fault="a file that gives other outputs than the model is written all the same",
        patches=(("infer/alike.py", "if not found.difference <= TOLERANCE:", "if found.difference < 0:"),),
        tests=("tests/infer/test_export.py",),
    ),
    Mutant(
        name="images-changed-by-place",
        fault="how an image is changed is drawn by its place in the micro-batch, not by the sample",
        patches=(
            (
                "data/augment.py",
                'states_B = None if draws is None else draws.columns["draw"]',
                'states_B = None if draws is None else np.sort(draws.columns["draw"])',
            ),
        ),
        tests=("tests/data/test_augment.py", IMAGES),
    ),
    Mutant(
        name="images-changed-alike-in-every-epoch",
        fault="an image is changed as in the first epoch in all others",
        patches=(
            (
                "data/augment.py",
                "sample_states(seed, STREAM, epochs_B, rows_B)",
                "sample_states(seed, STREAM, 0 * epochs_B, rows_B)",
            ),
        ),
        tests=("tests/data/test_augment.py", IMAGES),
    ),
    Mutant(
        name="micro-batches-unmasked",
        fault="a micro-batch is cut out of the split's tokens, not out of what the update masked",
        patches=(
            (
                "data/batches.py",
                "        table=seen,\n",
                "        table=taken,\n",
            ),
        ),
        tests=(LANGUAGE,),
    ),
    Mutant(
        name="same-masks-every-epoch",
        fault="every epoch hides the tokens that the first hid",
        patches=(
            (
                "data/batches.py",
                "return self._batch(ids_B, epochs_B, position, update)",
                "return self._batch(ids_B, 0 * epochs_B, position, update)",
            ),
        ),
        tests=("tests/data/test_batches.py", LANGUAGE),
    ),
    Mutant(
        name="all-tokens-counted",
        fault="the loss of masked tokens is divided by all tokens of the batch",
        patches=(
            (
                "step/together.py",
                "denominators = alone(world, lambda: self.task.denominators(batch.targets))",
                "denominators = dict.fromkeys(self.task.denominators(batch.targets), float(batch.tokens))",
            ),
        ),
        tests=(LANGUAGE,),
    ),
    Mutant(
        name="shift-off-by-one",
        fault="a causal model is asked for the token that it is reading",
        patches=(
            (
                "data/blocks.py",
                "reads_U = targets_U - 1 - np.repeat(firsts_S, lengths_S - 1)",
                "reads_U = targets_U - np.repeat(firsts_S, lengths_S - 1)",
            ),
        ),
        tests=("tests/tasks/test_clm.py", LANGUAGE),
    ),
    Mutant(
        name="bias-of-the-vocabulary-forgotten",
        fault="chunked logits leave out the output layer's bias",
        patches=(
            (
                "tasks/language.py",
                "linear_bias=bias_V,",
                "linear_bias=None if bias_V is None else 0 * bias_V,",
            ),
        ),
        tests=("tests/model/test_logits.py",),
    ),
    Mutant(
        name="tokens-clock-counts-samples",
        fault="the learning rate of a causal model moves with samples",
        patches=(
            ("build/parts.py", 'if self.clocks.clock == "tokens":', 'if self.clocks.clock == "nothing":'),
        ),
        tests=("tests/run/test_language.py",),
    ),
    # ------------------------------------------------------------ sequence to sequence
    Mutant(
        name="decoder-reads-what-it-predicts",
        fault="the decoder is shown the token that it is asked for, instead of the one before",
        patches=(
            (
                "tasks/seq2seq.py",
                "np.concatenate([[start], told[:-1]])",
                "np.concatenate([told, told[:0]] if len(told) else [[start]])",
            ),
        ),
        tests=("tests/tasks/test_seq2seq.py",),
    ),
    Mutant(
        name="smoothing-towards-the-value",
        fault="label smoothing has its sign the wrong way round",
        patches=(("tasks/language.py", "0.0, own_U - mean_U)", "0.0, mean_U - own_U)"),),
        tests=("tests/tasks/test_seq2seq.py",),
    ),
    Mutant(
        name="bias-of-bart-forgotten",
        fault="deferred logits leave out what the model adds behind its output layer",
        patches=(
            (
                "model/logits.py",
                "    return added_V if bias is None else bias + added_V\n",
                "    return 0 * added_V if bias is None else bias\n",
            ),
        ),
        tests=("tests/step/test_translation_split.py",),
    ),
    # ------------------------------------------------------------ what survives a run
    Mutant(
        name="latest-for-best",
        fault="the model folder holds the latest weights, not the best",
        patches=(
            (
                "run/finish.py",
                'between.keeper.load_earlier(kept.update) if kept.of == "best" else None',
                "None",
            ),
        ),
        tests=("tests/run/test_loop.py::test_the_model_folder_holds_the_best_weights_not_the_latest",),
    ),
    Mutant(
        name="luck-for-best",
        fault="an earlier evaluation replaces the final weights however small its lead",
        patches=(("run/choice.py", "if p < BEYOND_CHANCE:", "if p <= 1.0:"),),
        tests=("tests/run/test_choice.py",),
    ),
    Mutant(
        name="journal-not-rewound",
        fault="a resume leaves the records of updates that it does again",
        patches=(
            (
                "run/start.py",
                "lost = keeper.journal.rewind_to(progress.update, progress.journal_records)",
                "lost = 0",
            ),
        ),
        tests=(EXACT,),
    ),
    Mutant(
        name="optimizer-state-forgotten",
        fault="a resume starts the optimiser's averages from zero",
        patches=(("step/together.py", "load_optimizer_state(self.optimizer, state.tensors)", "pass"),),
        tests=(EXACT,),
    ),
    # ------------------------------------------------------------ precision
    Mutant(
        name="unscale-forgotten",
        fault="the gradient is clipped and used with the loss scale still in it",
        patches=(("step/together.py", "self.scale.unscale(gradients)", "pass"),),
        tests=(
            f"{PRECISION}::test_clipping_and_the_recorded_norm_are_of_the_gradient_not_of_the_scaled_one",
        ),
    ),
    Mutant(
        name="unscale-after-clipping",
        fault="norm and clipping see the scaled gradient; it is unscaled afterwards",
        patches=(
            ("step/together.py", "self.scale.unscale(gradients)", "pass"),
            (
                "step/together.py",
                "set_lr(self.optimizer, rates.lr)\n",
                "self.scale.unscale(gradients)\n            set_lr(self.optimizer, rates.lr)\n",
            ),
        ),
        tests=(
            f"{PRECISION}::test_clipping_and_the_recorded_norm_are_of_the_gradient_not_of_the_scaled_one",
        ),
    ),
    Mutant(
        name="chat-one-token-late",
        fault="of a conversation the token behind each of the assistant's is learnt",
        patches=(("tasks/chat_rows.py", "reads=(at - 1).astype(np.int32)", "reads=at.astype(np.int32)"),),
        tests=("tests/tasks/test_chat.py", "tests/step/test_chat_split.py"),
    ),
    Mutant(
        name="chat-end-mark-is-not-learnt",
        fault="the last token of an answer, its end mark, does not count: the model never learns to stop",
        patches=(
            (
                "tasks/chat_rows.py",
                "return np.arange(max(first, 1), max(last, 1)), bool(merged)",
                "return np.arange(max(first, 1), max(last - 1, 1)), bool(merged)",
            ),
        ),
        tests=("tests/tasks/test_chat.py",),
    ),
    Mutant(
        name="chat-prompt-without-its-end",
        fault="what stands before an answer is rendered without the generation prompt: role names are learnt",
        patches=(("tasks/dialogue.py", "asked = render(turn, True)", "asked = render(turn, False)"),),
        tests=("tests/tasks/test_chat.py",),
    ),
    Mutant(
        name="chat-special-tokens-from-texts",
        fault="special tokens in the text of a turn become control tokens in silence",
        patches=(("tasks/chat_rows.py", ", split_special_tokens=True)", ")"),),
        tests=("tests/tasks/test_chat.py",),
    ),
    Mutant(
        name="messages-shortened-apart",
        fault="a conversation loses its oldest turns by the length of the shorter answer alone",
        patches=(
            (
                "tasks/answers.py",
                "    return max(len(prompt) + len(own)",
                "    return min(len(prompt) + len(own)",
            ),
        ),
        tests=("tests/tasks/test_talks.py",),
    ),
    Mutant(
        name="messages-with-their-prompt",
        fault="an answer that repeats the turns of its prompt is read with them, as if it were those turns' answer",
        patches=(
            (
                "data/talks.py",
                "own = turns[len(before) :] if turns[: len(before)] == before else turns",
                "own = turns",
            ),
        ),
        tests=("tests/tasks/test_talks.py",),
    ),
    Mutant(
        name="messages-system-forgotten",
        fault="what the system says goes with the oldest turns of a preference",
        patches=(("tasks/answers.py", "[*turns[:head], *turns[first:]]", "[*turns[first:]]"),),
        tests=("tests/tasks/test_talks.py",),
    ),
    Mutant(
        name="loss-scale-forgotten",
        fault="the loss scale is not in the checkpoint, so a resume starts from the first one",
        patches=(
            (
                "step/update.py",
                'return {"loss_scale": scale.to_state()} if scale.varies else {}',
                "return {}",
            ),
        ),
        tests=(f"{PRECISION}::test_a_resumed_run_gives_the_same_bits",),
    ),
    Mutant(
        name="overflow-is-skipped",
        fault="an overflow at a scale that could be halved loses the batch",
        patches=(("step/together.py", "            raise GradientOverflow\n", "            pass\n"),),
        tests=(f"{PRECISION}::test_an_overflow_halves_the_scale_and_does_the_same_batch_again",),
    ),
    Mutant(
        name="rounding-seeded-by-nothing",
        fault="stochastic rounding draws from the global generator",
        patches=(("optim/adamw_bf16.py", ".random_(generator=generator)", ".random_()"),),
        tests=("tests/optim/test_adamw_bf16.py",),
    ),
    Mutant(
        name="rounding-by-order",
        fault="the random bits of a parameter depend on the update alone, so all parameters round alike",
        patches=(("optim/adamw_bf16.py", " + name.encode()", ""),),
        tests=("tests/optim/test_adamw_bf16.py",),
    ),
    Mutant(
        name="rounding-to-nearest",
        fault="bf16 weights are rounded to nearest, and small updates are lost",
        patches=(
            (
                "optim/adamw_bf16.py",
                "parameter.copy_(stochastic_bf16(weight, bits))",
                "parameter.copy_(weight.bfloat16())",
            ),
        ),
        tests=("tests/optim/test_adamw_bf16.py",),
    ),
    Mutant(
        name="norms-in-the-low-format",
        fault="the default policy forgets normalisations",
        patches=(("graph/policy.py", "elif part in kept or is_norm(part):", "elif part in kept:"),),
        tests=("tests/graph/test_policy.py", "tests/graph/test_casting.py"),
    ),
    Mutant(
        name="autocast-left-on",
        fault="a part that is kept in fp32 hands the format on, but leaves autocast off behind it",
        patches=(
            (
                "graph/casting.py",
                "        if self._open:\n            self._leave()",
                "        return",
            ),
        ),
        tests=("tests/graph/test_casting.py",),
    ),
    # ------------------------------------------------------------ averages, zeros, formats, masks
    Mutant(
        name="new-beta-to-the-old-step",
        fault="betas change, the step count stays: averages are divided by 1 - new^step",
        patches=(("optim/debias.py", "        step.fill_(after)\n", "        after = count\n"),),
        tests=("tests/optim/test_debias.py",),
    ),
    Mutant(
        name="checkpoints-without-betas",
        fault="a checkpoint does not say which betas its averages were made with",
        patches=(("optim/state.py", 'if len(group.get("betas", ())) == len(_BETAS):', "if False:"),),
        tests=("tests/optim/test_debias.py",),
    ),
    Mutant(
        name="stuck-at-zero",
        fault="a matrix that began at zero has the ratio of its length from the second step on",
        patches=(("optim/from_zero.py", "        if not any(marked):\n", "        if marked:\n"),),
        tests=("tests/optim/test_from_zero.py",),
    ),
    Mutant(
        name="reference-moves-along",
        fault="the reference is what the weights say that are being trained",
        patches=(
            (
                "tasks/prefer.py",
                "        parts_U = logp_U - _references(targets) if self.needs else logp_U\n",
                "        parts_U = logp_U - logp_U.detach() if self.needs else logp_U\n",
            ),
        ),
        tests=("tests/step/test_prefer_split.py::test_every_split_equals_the_whole_batch",),
    ),
    Mutant(
        name="prefixes-of-one-length",
        fault="first numbers of an embedding are cut from what was brought to length 1 as a whole",
        patches=(
            (
                "tasks/match.py",
                "self._loss(outputs[:, :dimension], targets, judge)",
                "self._loss(functional.normalize(outputs, dim=-1)[:, :dimension], targets, judge)",
            ),
            (
                "tasks/match.py",
                "cosine=cosine,\n                symmetric",
                "cosine=False,\n                symmetric",
            ),
        ),
        tests=(
            "tests/step/test_coupled.py::test_prefixes_and_judged_candidates_are_those_of_the_whole_batch",
        ),
    ),
    Mutant(
        name="guide-by-split-order",
        fault="a guide's vectors are those of its distinct texts in order, not those of each row's texts",
        patches=(
            (
                "infer/embed.py",
                "each[numbers_K[roles == role]]",
                "each[np.sort(numbers_K[roles == role])]",
            ),
        ),
        tests=(
            "tests/step/test_coupled.py::test_a_guide_leaves_out_what_it_finds_nearer_than_the_right_one",
        ),
    ),
    Mutant(
        name="known-only-in-its-place",
        fault="a text that answers a query is a negative of it where another row has it as one",
        patches=(("tasks/contrast.py", "        known_RC = _of_equal_texts(known_RC, texts_C)\n", ""),),
        tests=(
            "tests/tasks/test_match.py::test_texts_that_are_known_to_be_right_are_none_wherever_they_stand",
        ),
    ),
    Mutant(
        name="right-ones-mined",
        fault="another document of the same query is mined as a negative",
        patches=(
            (
                "infer/mine.py",
                "    return self.known[number] | ({own} if own is not None else set())\n",
                "    return {min(self.known[number])} | ({own} if own is not None else set())\n",
            ),
        ),
        tests=("tests/infer/test_mine.py::test_negatives_are_those_of_scores_taken_one_by_one",),
    ),
    Mutant(
        name="margins-by-rows",
        fault="margins by a teacher are divided by rows in place of negatives",
        patches=(
            (
                "tasks/match.py",
                "counted = NEGATIVE if self.loss_name == MARGINS else QUERY",
                "counted = QUERY",
            ),
        ),
        tests=("tests/step/test_coupled.py::test_a_teachers_scores_are_learnt_as_of_the_whole_batch",),
    ),
    Mutant(
        name="reward-before-the-end",
        fault="a reward is read at the token in front of the last one",
        patches=(("tasks/reward.py", ' == "first" else lengths_S - 1', ' == "first" else lengths_S - 2'),),
        tests=("tests/step/test_prefer_split.py::test_every_split_equals_the_whole_batch",),
    ),
    Mutant(
        name="tokens-of-odds",
        fault="both terms of orpo are divided by tokens",
        patches=(("tasks/prefer.py", 'if term == "nll" and by_token else', "if by_token else"),),
        tests=("tests/step/test_prefer_split.py::test_every_split_equals_the_whole_batch",),
    ),
    Mutant(
        name="reference-computed-again",
        fault="a resume computes the reference anew, by the weights of its checkpoint",
        patches=(
            (
                "run/start.py",
                "    parts.data = derived(parts, Kept(directory.path, run_id, wishes.say, wishes.progress))\n",
                "",
            ),
            (
                "run/start.py",
                "    progress, events = _position(keeper, parts, guard, decision)\n",
                "    progress, events = _position(keeper, parts, guard, decision)\n"
                "    parts.data = derived(parts, Kept(directory.path, run_id, wishes.say, wishes.progress))\n",
            ),
            ("build/derived.py", "    if not by_leader(world, look, bool, bool):\n", "    if True:\n"),
        ),
        tests=("tests/build/test_derived.py::test_a_resume_reads_it_back",),
    ),
    Mutant(
        name="torn-pairs",
        fault="the two sequences of a row are cut as if each were alone",
        patches=(
            ("data/sides.py", "groups=np.repeat(np.arange(len(rows_B), dtype=np.int64), 2)", "groups=None"),
        ),
        tests=("tests/step/test_prefer_split.py::test_no_pair_is_torn",),
    ),
    Mutant(
        name="windows-count-as-questions",
        fault="each window weighs as much as a question, so that long texts weigh more",
        patches=(("tasks/span.py", ".mean(1) / values[starts_W, COUNT]", ".mean(1)"),),
        tests=("tests/step/test_span_split.py::test_every_split_equals_the_whole_batch",),
    ),
    Mutant(
        name="rotary-leaves-fp32",
        fault="kernels are given what rotary positions leave: fp32 beside 16 bits",
        patches=(("model/attention.py", "    query, key, value = _of_one_dtype(query, key, value)\n", ""),),
        tests=("tests/graph/test_casting.py::test_kernels_of_attention_are_given_one_format",),
    ),
    Mutant(
        name="full-blocks-at-the-edge",
        fault="a block with empty places counts as seen in full",
        patches=(("model/block_mask.py", "        all_NM[-1] = False", "        pass"),),
        tests=("tests/model/test_block_mask.py::test_it_is_the_dense_mask",),
    ),
    Mutant(
        name="chunks-summed-in-bf16",
        fault="gradients of chunks of a vocabulary are added up in 16 bits",
        patches=(
            (
                "model/low_entropy.py",
                "torch.zeros_like(each, dtype=torch.float32)",
                "torch.zeros_like(each)",
            ),
        ),
        tests=("tests/model/test_low_entropy.py::test_no_worse_than_autocast",),
    ),
    Mutant(
        name="recommended-again",
        fault="items that a user had compete with the one that comes next",
        patches=(
            (
                "tasks/recommend.py",
                "scores_UV.scatter_(1, seen_UH[part].long(), -torch.inf)",
                "pass",
            ),
        ),
        tests=("tests/tasks/test_recommend.py::test_ranks_and_lists",),
    ),
    Mutant(
        name="queries-without-an-answer",
        fault="queries of which no candidate is relevant are counted in what the loss is divided by",
        patches=(("tasks/rank.py", "return most_Q > (0 if", "return most_Q > (-1 if"),),
        tests=("tests/step/test_rank_split.py::test_every_split_equals_the_whole_batch",),
    ),
    Mutant(
        name="split-without-an-answer",
        fault="training data of which no candidate is relevant is trained on, and learns nothing",
        patches=(
            (
                "tasks/rank.py",
                "return _counted(torch.from_numpy(values_S2), self.loss_name).numpy().astype(np.int64)",
                "return table.counted_units",
            ),
        ),
        tests=("tests/test_ranking.py::test_a_split_without_anything_to_learn_is_refused",),
    ),
    Mutant(
        name="stage-from-the-first-model",
        fault="every stage starts from the model that the recipe names",
        patches=(("run/stages.py", 'else before / "model"', "else None"),),
        tests=(f"{STAGES}::test_python_sees_one_run",),
    ),
    Mutant(
        name="batch-of-a-later-stage-unread",
        fault="a batch larger than a later stage's data is found when that stage begins",
        patches=(
            (
                "build/build.py",
                "    _laid_out(recipe, task, inputs, given, given.world, hardware_facts(recipe.plan, given.place))",
                "    pass",
            ),
        ),
        tests=(f"{STAGES}::test_python_sees_one_run",),
    ),
    Mutant(
        name="files-of-the-last-stage-alone",
        fault="hosts compare the files of the last stage only",
        patches=(("launch/facts.py", "[stage.recipe for stage in loaded.stages] or [loaded]", "[loaded]"),),
        tests=("tests/launch/test_ssh.py::test_files_of_every_stage_are_compared",),
    ),
    Mutant(
        name="typical-texts-are-the-worst",
        fault="texts around the median are taken from behind the worst",
        patches=(("metrics/written.py", "max((len(order) - typical) // 2, worst)", "worst"),),
        tests=("tests/metrics/test_written.py",),
    ),
    Mutant(
        name="later-stage-not-looked-at",
        fault="what is wrong with a later stage is found when it begins",
        patches=(("run/stages.py", "            self._check_later(stage)", "            pass"),),
        tests=(f"{STAGES}::test_python_sees_one_run",),
    ),
)


def planted(mutant: Mutant, source: Path) -> str:
    """Apply the patches below `source`; an empty string, or why one does not apply."""
    for name, old, new in mutant.patches:
        path = source / name
        if not path.exists():
            return f"{name} does not exist"
        text = path.read_text(encoding="utf-8")
        if text.count(old) != 1:
            return f"{name} holds the text {text.count(old)} times, not once: {old!r}"
        path.write_text(text.replace(old, new), encoding="utf-8")
    return ""


def run_tests(tests: Sequence[str], source: Path) -> tuple[int, str]:
    """Exit code and last lines of pytest with the package taken from `source`."""
    command = [
        *(sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=line"),
        *("-o", f"pythonpath={source} ."),
        *tests,
    ]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    return done.returncode, "\n".join((done.stdout + done.stderr).strip().splitlines()[-3:])


def verdict(mutant: Mutant) -> tuple[str, str]:
    """(`killed`, `SURVIVED`, `STALE` or `BROKEN`, details) of one fault."""
    with tempfile.TemporaryDirectory(prefix="bigbatch-mutant-") as folder:
        source = Path(folder) / "src"
        shutil.copytree(SOURCE, source / "bigbatch", ignore=shutil.ignore_patterns("__pycache__"))
        stale = planted(mutant, source / "bigbatch")
        if stale:
            return "STALE", stale
        code, tail = run_tests(mutant.tests, source)
    if code == 1:
        return "killed", next((line for line in tail.splitlines() if line.startswith("FAILED")), tail)
    return ("SURVIVED", tail) if code == 0 else ("BROKEN", tail)


def main() -> int:
    """Try the chosen faults; 0 when every one is killed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="faults to try; all when none is given")
    parser.add_argument("--list", action="store_true", help="list the faults and stop")
    arguments = parser.parse_args()
    known = {mutant.name: mutant for mutant in MUTANTS}
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    chosen = [known[name] for name in arguments.names] or list(MUTANTS)
    if arguments.list:
        print("\n".join(f"{mutant.name:<30} {mutant.fault}" for mutant in chosen))
        return 0
    tests = sorted({name for mutant in chosen for name in mutant.tests})
    print(f"without a fault: {' '.join(tests)} ... ", end="", flush=True)
    code, tail = run_tests(tests, SOURCE.parent)
    print("passed" if code == 0 else f"FAILED\n{tail}", flush=True)
    if code:
        return 1
    killed = 0
    for number, mutant in enumerate(chosen, start=1):
        print(f"[{number}/{len(chosen)}] {mutant.name}: {mutant.fault} ... ", end="", flush=True)
        started = time.perf_counter()
        outcome, details = verdict(mutant)
        killed += outcome == "killed"
        print(f"{outcome} ({time.perf_counter() - started:.0f} s)\n      {details}", flush=True)
    print(f"{killed} of {len(chosen)} killed")
    return 0 if killed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
