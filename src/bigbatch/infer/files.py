"""Predict a file: whatever training reads in, CSV or JSON Lines out."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from bigbatch.files.coco import category_ids
from bigbatch.infer.load import Loaded
from bigbatch.infer.predict import WINDOW_ROWS, predict_placed
from bigbatch.infer.unlabelled import rows_of_file, rows_of_stream
from bigbatch.infer.whole import ANSWERS, coco_results
from bigbatch.infer.writers import Whole, open_output
from bigbatch.remote.addresses import is_address
from bigbatch.tasks.detect import Detect
from bigbatch.tasks.span import Span


def predict_file(
    loaded: Loaded,
    source: Path | str | TextIO | None,
    out: Path | str | TextIO | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    encoding: str | None = None,
    quoting: str | None = None,
    keep: Sequence[str] = (),
    window_rows: int = WINDOW_ROWS,
    micro_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
    say: Callable[[str], object] | None = None,
) -> int:
    """Write a prediction for every row of a source, in order, with its id if it has one.

    Args:
        loaded: what `open_model` gave.
        source: a file of any kind that training reads, its address, or a text stream (None or `-`: standard input).
        out: a `.jsonl` or `.csv` file that does not exist, or a text stream (None or `-`: standard output); of
            answers in texts a `.json` file, too, which gets `{id: answer}`, and of boxes COCO's results.
        columns: role -> column; added to the model's own.
        encoding: of the source; None takes the run's.
        quoting: of CSV and TSV, `minimal` or `none`; None takes the run's.
        keep: columns of the source that are copied into the output; one that is called as a field of the predictions
            becomes `input.NAME`.
        window_rows: rows that are computed at a time.
        micro_tokens: upper bound of computed tokens of a micro-batch; None: what suits the device.
        progress: called with the number of rows done so far.
        say: told what is fetched, where the source is an address.

    Returns:
        The number of rows.

    Raises:
        UsageError: a file that would be overwritten.
        DataError: no such file, a malformed row or one without text; nothing is left under the name of `out`.
    """
    wanted = {**loaded.columns, **(columns or {})}
    source, out = source if is_address(source) else _place(source), _place(out)
    own = source if isinstance(source, (str, Path)) else None
    how: dict[str, Any] = {
        "roles": loaded.task.roles,
        "columns": wanted,
        "encoding": encoding or loaded.encoding,
        "quoting": quoting or loaded.quoting,
        "keep": keep,
    }
    rows = 0
    whole = _whole(loaded, own if isinstance(own, Path) else None)
    with open_output(out, own if isinstance(own, Path) else None, whole=whole) as write:
        if own is not None:
            placed = rows_of_file(own, **how, say=say)
        else:
            stream = sys.stdin if source is None else source
            name = "stdin" if source is None else str(getattr(stream, "name", "stream"))
            placed = rows_of_stream(name, as_bytes(stream, how["encoding"]), **how)
        for prediction in predict_placed(
            loaded.forward,
            loaded.task,
            loaded.tokenizer,
            placed,
            window_rows=window_rows,
            micro_tokens=micro_tokens or loaded.micro_tokens,
        ):
            write(prediction)
            rows += 1
            if progress is not None and rows % window_rows == 0:
                progress(rows)
    return rows


def _whole(loaded: Loaded, source: Path | None) -> Whole | None:
    """What a `.json` file is for, by the task."""
    if isinstance(loaded.task, Span):
        return ANSWERS
    if isinstance(loaded.task, Detect):
        return coco_results(loaded.task.label_names, {} if source is None else category_ids(source))
    return None


def _place(given: Path | str | TextIO | None) -> Path | TextIO | None:
    """`-` as None, other text as a path."""
    if isinstance(given, str):
        return None if given == "-" else Path(given)
    return given


def as_bytes(stream: Any, encoding: str) -> bytes:
    """All of a text or binary stream, standard input included, in this encoding."""
    content = stream.buffer.read() if isinstance(stream, io.TextIOWrapper) else stream.read()
    return (
        content.encode("latin-1" if encoding == "latin-1" else "utf-8")
        if isinstance(content, str)
        else content
    )
