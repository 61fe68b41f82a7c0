"""Names that become words of ssh and lines of a batch script: what they may be made of.

A recipe may come from anywhere, and ssh, sbatch and a shell each read more into a word than its writer may have meant.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from bigbatch.recipe.values import Text, show

_HOST = re.compile(
    r"([A-Za-z0-9_][A-Za-z0-9_.+-]*@)?([A-Za-z0-9_][A-Za-z0-9_.-]*|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]+(%\w+)?)"
)
_SLURM_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,:+@/-]*")
_SLURM_TIME = re.compile(r"[0-9][0-9:-]*|infinite|unlimited", re.IGNORECASE)
_OPTION = re.compile(r"--?[A-Za-z0-9].*", re.DOTALL)
_BEYOND_JOB_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")
_JOB_NAME_CHARACTERS = 64


def checked_host(name: str) -> str:
    """A name, `user@name` or an address, as `ssh` takes it.

    Raises:
        ValueError: it could be an option, or holds what a shell or ssh's configuration would obey.
    """
    if not _HOST.fullmatch(name):
        raise ValueError(f"found {show(name)} among the hosts; expected names, such as node1 or user@node2")
    return name


def one_line(text: str) -> str:
    """Text in which nothing ends a line for anybody who reads it.

    Raises:
        ValueError: it has a line break or another character that cannot be seen.
    """
    unseen = next((character for character in text if not character.isprintable()), None)
    if unseen is not None:
        raise ValueError(
            f"found {show(text)}, with U+{ord(unseen):04X} in it; expected one line of visible text"
        )
    return text


def job_name(text: str) -> str:
    """What is left of a text in a name that Slurm, a shell and a file system all take."""
    return _BEYOND_JOB_NAMES.sub("-", text)[:_JOB_NAME_CHARACTERS].strip("-.") or "job"


def _slurm_name(text: str) -> str:
    if not _SLURM_NAME.fullmatch(text):
        raise ValueError(f"found {show(text)}; expected a name as Slurm has them, such as gpu")
    return text


def _slurm_time(text: str) -> str:
    if not _SLURM_TIME.fullmatch(text):
        raise ValueError(f"found {show(text)}; expected a time as Slurm writes it, such as 04:00:00 or 1-12")
    return text


def _option(text: str) -> str:
    if not _OPTION.fullmatch(one_line(text)):
        raise ValueError(f"found {show(text)}; expected one option of sbatch, such as --gpus-per-node=4")
    return text


HostName = Annotated[Text, AfterValidator(checked_host)]
SlurmName = Annotated[Text, AfterValidator(_slurm_name)]
SlurmTime = Annotated[Text, AfterValidator(_slurm_time)]
SlurmOption = Annotated[Text, AfterValidator(_option)]
ShellLine = Annotated[Text, AfterValidator(one_line)]
"""Tabs are invisible too; no line of a shell needs one."""
