"""The recipe's sections that say how it runs: sync, guard, scale, plan, launch and run."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, PlainValidator

from bigbatch.recipe.names import HostName, ShellLine, SlurmName, SlurmOption, SlurmTime
from bigbatch.recipe.values import (
    Beta,
    ByteSize,
    Count,
    CountOrZero,
    Duration,
    Interval,
    Marks,
    OnOff,
    PositiveNumber,
    Section,
    Text,
    TextInterval,
    built,
    is_reference,
    quantity,
    show,
)
from bigbatch.recipe.words import Attention, Compile, Precision, Products, Recompute


# What a batch job is called with: the site file or the command line says it, never a recipe, because its lines are run
# by a shell.
class SlurmSpec(Section):
    """What `bigbatch train RECIPE --slurm --submit` asks Slurm for."""

    partition: SlurmName | None = None
    """Queue; null: the cluster's default."""
    account: SlurmName | None = None
    """Who pays; null: the user's default."""
    time: SlurmTime | None = None
    """Limit of one run of the job as Slurm writes it, such as `04:00:00`; a requeued job has it again. Null: the
    partition's."""
    nodes: Count = 1
    """Machines."""
    ranks_per_node: Count = 1
    """Processes on each machine: one for each accelerator."""
    options: list[SlurmOption] = Field(default_factory=list)
    """Further options of sbatch, one each, such as `--gpus-per-node=4`."""
    setup: list[ShellLine] = Field(default_factory=list)
    """Shell lines before the command, such as `module load cuda`."""


TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
"""Observers that have a name; a process beside the run sends its records there."""
_DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?|xpu(:\d+)?")


def _device(value: str | None) -> str | None:
    if value is not None and not _DEVICE.fullmatch(value):
        raise ValueError(f"found {value!r}; expected cpu | cuda | cuda:<n> | mps")
    return value


def _recompute(value: object) -> object:
    if value is None or value in get_args(Recompute):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError(
        f"found {show(value)}; expected none | selective | blocks | a whole number n: every n-th block"
    )


def _observer(value: str) -> str:
    if value not in TRACKERS and not is_reference(value):
        names = " | ".join(TRACKERS)
        raise ValueError(
            f"found {value!r}; expected {names}, or an import reference such as 'alerts.py:notify'"
        )
    return value


ObserverName = Annotated[Text, AfterValidator(_observer)]


def _period(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"found {show(value)}; expected a whole number of updates from 1, or auto")


class SyncSpec(Section):
    """Replicas that train apart and meet now and then. It changes the result, and the number of ranks does not."""

    period: Annotated[int | Literal["auto"], PlainValidator(_period)] = 1
    """Updates between two meetings; `auto` follows what a meeting costs and how far replicas drift apart."""
    replicas: Count = 1
    """Copies that train apart, each on its share of every batch; 1: one model, as usual."""
    outer: Literal["average", "diloco"] = "average"
    """What a meeting does: take the mean of all replicas, or make a step towards it (DiLoCo)."""
    outer_lr: PositiveNumber = 0.7
    """Learning rate of DiLoCo's step."""
    outer_momentum: Beta = 0.9
    """Nesterov momentum of DiLoCo's step."""
    mode: Annotated[Literal["synchronous", "async"], built("synchronous")] = "synchronous"
    """Whether replicas wait for each other."""
    compress: Annotated[Literal["none", "bf16_ef", "powersgd"], built("none")] = "none"
    """Compression of what is sent."""

    @property
    def apart(self) -> bool:
        """Whether replicas train apart at all."""
        return self.replicas > 1 or self.outer != "average"


class GuardSpec(Section):
    """What happens when the loss or the gradient is not a number."""

    patience: Count = 5
    """Skipped updates in a row after which the run ends with exit code 5."""
    spike: Annotated[PositiveNumber | None, built(None)] = None
    """Gradient norm, in multiples of its recent median, that counts as a spike."""
    on_nonfinite: Literal["skip", "stop"] = "skip"
    """`skip` leaves weights and optimizer untouched and goes on; `stop` ends the run."""


class ScaleSpec(Section):
    """Measuring the gradient noise scale."""

    every: Marks = quantity("20 updates")
    """How often it is measured: updates, samples, epochs, `end` or `never`."""
    parts: Annotated[Count, Field(ge=2)] = 8
    """Random parts of the batch whose gradients are compared; more ranks than these would wait for each other."""


class MeshSpec(Section):
    """How ranks are arranged."""

    replicate: Count = 1
    """Whole copies of the model."""
    shard: Count = 1
    """Ranks that share one copy's parameters."""
    tensor: Count = 1
    """Ranks that share each matrix product."""
    pipeline: Annotated[Count, built(1)] = 1
    """Ranks that hold consecutive blocks."""
    context: Annotated[Count, built(1)] = 1
    """Ranks that share a sequence."""


class PrecisionSpec(Section):
    """In which number format forward and backward are computed. In YAML a name alone is enough."""

    name: Annotated[Literal["auto", Precision, "fp64"] | None, built(None, "auto", *get_args(Precision))] = (
        None
    )
    """`auto` measures and decides; null: fp32. Weights, optimizer and gradient sums are fp32 in all of them."""
    keep_fp32: list[Text] = Field(default_factory=list)
    """Patterns of module names (`*.layer.11.*`) that are computed in fp32, beside those that always are."""
    allow_low: list[Text] = Field(default_factory=list)
    """Patterns of module names that may use the format although embeddings, norms and head stay fp32 by default."""


class PlanSpec(Section):
    """How it is computed. The planner decides what is null; nothing here changes the result beyond rounding."""

    micro_tokens: Count | None = None
    """Tokens computed at once, padding included; a longer sample is alone."""
    ranks: Count | None = None
    """Processes that share each update."""
    device: Annotated[Text | None, AfterValidator(_device)] = None
    """cpu, cuda, cuda:<n> or mps."""
    mesh: MeshSpec | None = None
    """Arrangement of the ranks; null: each has a whole copy of the model."""
    precision: PrecisionSpec = Field(default_factory=PrecisionSpec)
    """Number format of forward and backward."""
    compile: Literal[Compile, "auto"] = "auto"
    """Compile the blocks (equal ones once), the whole base model, or nothing; `auto`: when it pays for itself."""
    recompute: Annotated[Recompute | Count | None, PlainValidator(_recompute)] = None
    """What backward computes again to save memory: `selective` (all but matrix products and attention), `blocks`, or
    every n-th block; null: as little as fits the memory."""
    attention: Attention | None = None
    """What computes attention over a pack; null: the fastest that was measured."""
    products: Products | None = None
    """What multiplies fp32 matrices on a CPU: torch's usual library, or oneDNN, which torch brings too; null: the
    faster one, as measured."""
    lazy: bool | None = None
    """false: compute everything in full, also what nobody reads; null: leave out what can be."""
    packing: Literal["packed", "padded"] | None = None
    """Samples one behind the other without padding, or padded to the longest of the micro-batch."""
    memory: ByteSize | None = None
    """Memory that may be used: bytes, or a size such as `8 GiB`; null: what is free."""
    threads: Count | None = None
    """Threads of an operation; null: one per core."""
    reproducible: OnOff = "off"
    """`run`: the same plan on the same machine gives the same bits, on GPUs too; `bitwise`: so do 1, 2, 4, 8, …
    ranks."""


class LaunchSpec(Section):
    """Where processes start."""

    kind: Annotated[Literal["local", "ssh", "slurm", "ray"], built("local", "ssh", "slurm")] = "local"
    """Who starts the processes."""
    hosts: list[HostName] = Field(default_factory=list)
    """Machines, as `ssh` knows them; the first one holds the store through which they find each other."""
    timeout: Duration = quantity("30 min")
    """Longest wait for a rank before it counts as lost."""
    grace: Duration = quantity("30 s")
    """After SIGTERM: time to save the last boundary before exit."""
    max_restarts: CountOrZero = 0
    """How often the processes are started again, from the newest checkpoint, after one was lost."""
    min_nodes: Count | None = None
    """Fewest machines to go on with after some were lost; null: all."""
    max_requeues: CountOrZero = 3
    """How often a batch job puts itself back into the queue, to go on from its newest checkpoint."""
    slurm: SlurmSpec = Field(default_factory=SlurmSpec)
    """What a batch job asks for."""


class RunSpec(Section):
    """Where results go, and when the run evaluates and saves."""

    dir: Text = "runs/{recipe}"
    """The run directory; `{recipe}` is the recipe's file name without its ending."""
    root: Text | None = None
    """Folder that a relative `dir` is in; null: the current folder."""
    cache: Text | None = None
    """Folder of tokens, rows of shards and measurements, which runs share; null: `.cache` beside run directories."""
    stream_bytes: ByteSize = 16 * 2**30
    """Disk that shards of a stream of tokens may take on this machine: bytes, or a size such as `16 GiB`."""
    evaluate_every: Interval = quantity("1 epochs")
    """How often validation runs: updates, samples, tokens, epochs, s, min, h, `end` or `never`."""
    generate_every: TextInterval = quantity("1 evaluations")
    """Which evaluations write texts, where figures of texts are asked for, and continue `prompts`: every so many
    `evaluations`, or the last alone (`end`); the last one always does."""
    prompts: Text | None = None
    """A file of prompts (a text a line, or rows with `prompt`, `messages` or a source) that a model which can write
    continues, greedily, at each of those evaluations: RUN/samples/, and the report; null: none."""
    prompt_tokens: Count = 64
    """Tokens that are written behind each of `prompts`, at most."""
    checkpoint_every: Interval = quantity("5 min")
    """How often a checkpoint is written."""
    keep: Count = 2
    """Newest checkpoints that are kept."""
