"""Words in, words out; no logic. Nothing here imports torch: commands reach what computes when they run.

app.py      the commands and their flags
beside.py   commands that have a file of their own
mining.py   the command mine
writing.py  the command generate
exporting.py the command export
serving.py  the command serve
tokens.py   the command tokenize
converting.py the commands convert and split
studying.py the commands bench, sweep and scale
watching.py the commands watch and track
outcome.py  from what happened to an exit code and a message
words.py    printing: control characters made visible, numbers lined up
options.py  arguments and options that several commands share
"""

from __future__ import annotations

from bigbatch.cli.app import main

__all__ = ["main"]
