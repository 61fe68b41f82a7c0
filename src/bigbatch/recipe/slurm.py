"""The recipe's section launch.slurm: what a batch job is called with. It belongs in the site file."""

from __future__ import annotations

from pydantic import Field

from bigbatch.recipe.values import Count, Section, Text


class SlurmSpec(Section):
    """What `bigbatch train RECIPE --slurm --submit` asks Slurm for."""

    partition: Text | None = None
    """Queue; null: the cluster's default."""
    account: Text | None = None
    """Who pays; null: the user's default."""
    time: Text | None = None
    """Limit of one run of the job as Slurm writes it, such as `04:00:00`; a requeued job has it again. Null: the
    partition's."""
    nodes: Count = 1
    """Machines."""
    ranks_per_node: Count = 1
    """Processes on each machine: one for each accelerator."""
    options: list[Text] = Field(default_factory=list)
    """Further options of sbatch, one each, such as `--gpus-per-node=4`."""
    setup: list[Text] = Field(default_factory=list)
    """Shell lines before the command, such as `module load cuda`."""
