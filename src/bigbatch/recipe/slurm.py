"""The recipe's section launch.slurm: what a batch job is called with. The site file or the command line says it,
never a recipe: its lines are run by a shell.
"""

from __future__ import annotations

from pydantic import Field

from bigbatch.recipe.names import ShellLine, SlurmName, SlurmOption, SlurmTime
from bigbatch.recipe.values import Count, Section


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
