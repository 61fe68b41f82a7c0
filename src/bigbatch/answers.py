"""What is asked of a model that was trained: its figures on labelled data, its predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigbatch.arguments import PathOrText
from bigbatch.frames import said_plainly
from bigbatch.remote.addresses import is_address

if TYPE_CHECKING:
    from bigbatch.infer.load import Loaded


@said_plainly
def evaluate(
    model: PathOrText,
    files: object,
    *,
    columns: Mapping[str, str] | None = None,
    quoting: str | None = None,
    device: str | None = None,
    code: bool = False,
    say: Callable[[str], object] | None = None,
) -> dict[str, object]:
    """Loss and metrics of a run, or of a Hugging Face folder, on labelled data. A figure that does not exist on these
    data is None, and `undefined` says why.

    Args:
        model: a run directory or a model folder.
        files: one or several files, or any dataset that `train` takes.
        columns: role -> column, where they differ from training's.
        quoting: of CSV and TSV, `minimal` or `none`; None: as in training.
        device: `cpu`, `cuda` (all of them), `cuda:1`, `mps`, `auto`, or several with commas; None: as the run was
            planned, else every accelerator there is, else the CPU.
        code: let code that the run names (its own task or metrics) run although it was not made here by you.
        say: told what the user should know.
    """
    from bigbatch.infer.load import open_model
    from bigbatch.infer.rows import evaluate_rows

    opened = _told(open_model(Path(model), device=device, code=code), say)
    wanted = {**opened.columns, **(columns or {})}
    result = evaluate_rows(opened, files, Path.cwd(), wanted, quoting=quoting, say=say)
    found = {"loss": result.loss, **result.metrics, "samples": result.samples, "seconds": result.seconds}
    if result.signatures:
        found["signatures"] = dict(result.signatures)
    return {**found, "undefined": result.undefined} if result.undefined else found


@said_plainly
def predict(
    model: PathOrText,
    rows: object,
    *,
    columns: Mapping[str, str] | None = None,
    device: str | None = None,
    code: bool = False,
    dimension: int | None = None,
) -> list[dict[str, Any]]:
    """Labels and probabilities by a run or a model folder, one for each row.

    Args:
        model: a run directory or a model folder.
        rows: a text, several, rows with the task's columns, or a table: pandas, `datasets`, Arrow, a dictionary of
            columns.
        columns: role -> column, where they differ from training's.
        device: as `evaluate` has it.
        code: as `evaluate` has it.
        dimension: numbers of an embedding that are kept (`task: match`); None: all.
    """
    from bigbatch.infer.load import cut_to, open_model
    from bigbatch.infer.predict import predict_rows

    opened = cut_to(dimension, open_model(Path(model), device=device, code=code, metrics=False))
    found = predict_rows(
        opened.forward,
        opened.task,
        opened.tokenizer,
        rows,
        columns={**opened.columns, **(columns or {})},
        micro_tokens=opened.micro_tokens,
    )
    return list(found)


@said_plainly
def predict_file(
    model: PathOrText,
    source: str,
    out: str = "-",
    *,
    columns: Mapping[str, str] | None = None,
    quoting: str | None = None,
    keep: Sequence[str] = (),
    device: str | None = None,
    code: bool = False,
    dimension: int | None = None,
    say: Callable[[str], object] | None = None,
) -> int:
    """Label a file of any kind that training reads into a CSV or JSONL file, row by row, in order.

    Args:
        model: a run directory or a model folder.
        source: the file, or its address; `-`: standard input.
        out: its end says CSV or JSONL; `-`: standard output.
        columns: role -> column, where they differ from training's.
        quoting: as `evaluate` has it.
        keep: columns that are copied into the output.
        device: as `evaluate` has it.
        code: as `evaluate` has it.
        dimension: as `predict` has it.
        say: told what the user should know.

    Returns:
        The number of rows.
    """
    from bigbatch.infer import files
    from bigbatch.infer.load import cut_to, open_model

    place: Path | str | None = None if source == "-" else source if is_address(source) else Path(source)
    opened = _told(open_model(Path(model), device=device, code=code, metrics=False), say)
    opened = cut_to(dimension, opened)
    return files.predict_file(
        opened,
        place,
        None if out == "-" else Path(out),
        columns=dict(columns or {}),
        quoting=quoting,
        keep=keep,
        say=say,
    )


@said_plainly
def mine(
    model: PathOrText,
    source: PathOrText,
    out: PathOrText,
    *,
    negatives: int = 1,
    ranks: tuple[int, int] = (1, 100),
    margin: float = 0.05,
    relative: bool = True,
    max_score: float | None = None,
    guide: PathOrText | None = None,
    corpus: Sequence[PathOrText] = (),
    scores: bool = False,
    columns: Mapping[str, str] | None = None,
    quoting: str | None = None,
    device: str | None = None,
    say: Callable[[str], object] | None = None,
) -> tuple[int, int]:
    """Write pairs with hard negatives: texts that a model takes for answers, and that are none as far as the data say.

    Args:
        model: a run directory or a model folder, of `task: match` or sentence-transformers.
        source: a file of pairs.
        out: a `.jsonl` file; `-`: standard output.
        negatives: of each pair, at most; each is a row of its own.
        ranks: the first and the last rank that is looked at.
        margin: how far below the score of the pair's own document a negative has to be.
        relative: whether that is a share of the score.
        max_score: the largest score of a negative.
        guide: a second model, which leaves out what it scores above the pair's own document.
        corpus: files of further documents.
        scores: whether `score` and `negative_score` are written, too: of the guide, if there is one.
        columns: role -> column, where they differ from training's.
        quoting: as `evaluate` has it.
        device: as `evaluate` has it.
        say: told what the user should know, and how far it is.

    Returns:
        Pairs, and negatives found.
    """
    from bigbatch.infer.load import open_model
    from bigbatch.infer.mine import Mining, mine

    how = Mining(
        negatives=negatives, first=ranks[0], last=ranks[1], margin=margin, relative=relative,
        max_score=max_score, scores=scores,
    )  # fmt: skip
    opened = _told(open_model(Path(model), device=device, metrics=False), say)
    return mine(
        opened,
        Path(source),
        None if str(out) == "-" else Path(out),
        how,
        corpus=[Path(each) for each in corpus],
        guide=None if guide is None else open_model(Path(guide), device=device, metrics=False),
        columns=columns,
        quoting=quoting,
        progress=None if say is None else lambda what, done, total: say(f"{what}: {done:,} of {total:,}"),
    )


def _told(opened: Loaded, say: Callable[[str], object] | None) -> Loaded:
    if say is not None:
        for note in opened.notes:
            say(f"note: {note}")
    return opened
