"""What is asked of a model that was trained: its figures on labelled data, its predictions, its texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigbatch.arguments import PathOrText
from bigbatch.errors import UsageError
from bigbatch.frames import said_plainly
from bigbatch.protocols import Json
from bigbatch.remote.addresses import is_address

if TYPE_CHECKING:
    from bigbatch.infer.evaluate import EvalResult
    from bigbatch.infer.load import Loaded
    from bigbatch.infer.sampling import Decoding


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
    data is None, and `undefined` says why. Of several files `sources` has the same of each.

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
    found = {**_told_figures(result), "seconds": result.seconds}
    if result.by_source:
        found["sources"] = {name: _told_figures(part) for name, part in result.by_source.items()}
    return found


def _told_figures(result: EvalResult) -> dict[str, object]:
    found: dict[str, object] = {"loss": result.loss, **result.metrics, "samples": result.samples}
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


@said_plainly
def generate(
    model: PathOrText,
    prompts: object,
    *,
    columns: Mapping[str, str] | None = None,
    chat: bool = False,
    device: str | None = None,
    code: bool = False,
    **how: object,
) -> list[dict[str, Json]]:
    """Texts by a causal language model or an encoder-decoder, one for each prompt, in order.

    Each is what the model writes of that prompt alone: neither the batch nor the other prompts change it, sampling
    included.

    Args:
        model: a run directory or a model folder.
        prompts: a text, several; rows with `prompt` or `messages` (of an encoder-decoder `source`); a table; a file (a
            `Path`): a text a line, or JSON Lines.
        columns: role -> column, where they are called otherwise.
        chat: a prompt is what a user says, for the tokenizer's chat template; messages always go through it.
        device: as `evaluate` has it.
        code: as `evaluate` has it.
        how: `max_tokens` (256; of an encoder-decoder as in its evaluations), `temperature` (0: always the likeliest
            token), `top_p`, `top_k`, `beams`, `stop` (texts that end one), `seed`.

    Returns:
        `{"text", "end", "tokens"}` behind what the row had; `end` is `stop` (an end mark or a stop text) or `length`.

    Raises:
        UsageError: a model that writes no text, or options out of range.
        DataError: prompts that the model cannot take, with their places.
    """
    from bigbatch.infer.draw import draw_labels
    from bigbatch.infer.load import open_model
    from bigbatch.infer.prompts import prompts_of, rows_of_prompts
    from bigbatch.infer.texts import in_order, may_write, written_texts
    from bigbatch.tasks.diffuse import Diffuse

    decoding = _decoding(how)
    loaded = open_model(Path(model), device=device, code=code, metrics=False)
    if isinstance(loaded.task, Diffuse):
        labels = _labels(prompts)
        return [
            {"label": label, "image": image.tolist()}
            for label, image in zip(labels, draw_labels(loaded, labels, decoding.seed), strict=True)
        ]
    opened = may_write(loaded, decoding)
    rows = rows_of_prompts(prompts, opened, columns=columns or {})
    found = written_texts(opened, prompts_of(rows, opened, chat=chat), decoding)
    return [{**prompt.told, **text.record} for prompt, text in in_order(found)]


@said_plainly
def generate_command(
    model: PathOrText,
    prompts: str | bytes | Path,
    out: Path | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    keep: Sequence[str] = (),
    chat: bool = False,
    device: str | None = None,
    code: bool = False,
    say: Callable[[str], object],
    show: Callable[[str], object],
    **how: object,
) -> None:
    """`bigbatch generate`: one text as it comes, or a record for each of many.

    Args:
        model: a run directory or a model folder.
        prompts: one prompt; or the file, or what standard input holds, of many.
        out: a `.jsonl` or `.csv` file; None: `show`.
        columns: as `generate` has them.
        keep: columns that are copied into the output.
        chat: as `generate` has it.
        device: as `evaluate` has it.
        code: as `evaluate` has it.
        say: told what the user should know.
        show: given the text of one prompt piece by piece, or the records of many line by line.
        how: as `generate` has it.
    """
    from bigbatch.infer.draw import draw_labels, write_images
    from bigbatch.infer.load import open_model
    from bigbatch.infer.prompts import prompts_of, rows_of_prompts
    from bigbatch.infer.texts import in_order, may_write, to_file, written_texts
    from bigbatch.infer.writers import check_output, json_line
    from bigbatch.tasks.diffuse import Diffuse

    source = prompts if isinstance(prompts, Path) else None
    decoding = _decoding(how)
    loaded = _told(open_model(Path(model), device=device, code=code, metrics=False), say)
    if isinstance(loaded.task, Diffuse):
        labels = _labels(prompts)
        if out is None:
            raise UsageError("generate: this model draws images; give a new folder for them: --out FOLDER")
        for path in write_images(draw_labels(loaded, labels, decoding.seed), labels, out):
            show(f"{path}\n")
        return
    if out is not None:
        check_output(out, source)
    opened = may_write(loaded, decoding)
    rows = rows_of_prompts(prompts, opened, columns=columns or {}, keep=keep)
    found = prompts_of(rows, opened, chat=chat)
    cut = sum(prompt.sample.truncated for prompt in found)
    if cut:
        say(
            f"note: {cut:,} of {len(found):,} sources are longer than {opened.max_length} tokens, and were cut"
        )
    if out is not None:
        to_file(opened, found, decoding, Path(model), out, source, say)
    elif isinstance(prompts, str):
        for _ in written_texts(opened, found, decoding, said=show):
            show("\n")
    else:
        for prompt, text in in_order(written_texts(opened, found, decoding)):
            show(json_line({**prompt.told, **text.record}))


def _labels(prompts: object) -> list[str]:
    """Classes to draw: one, several, or a line each of a file or of standard input."""
    from bigbatch.stored import read_text

    if isinstance(prompts, Path):
        prompts = read_text(prompts, most_bytes=2**24)
    if isinstance(prompts, bytes):
        prompts = prompts.decode("utf-8", "replace")
    given = prompts.splitlines() if isinstance(prompts, str) else list(prompts)  # pyright: ignore[reportArgumentType]
    labels = [str(each).strip() for each in given]
    return [label for label in labels if label]


def _decoding(how: Mapping[str, object]) -> Decoding:
    """The way of writing that was asked for.

    Raises:
        UsageError: an option that there is not, or a value out of range.
    """
    from dataclasses import fields

    from bigbatch.infer.sampling import Decoding

    known = [each.name for each in fields(Decoding)]
    unknown = sorted({*how} - {*known})
    if unknown:
        raise UsageError(f"generate: found {unknown[0]}; it takes {', '.join(known)}")
    given = {name: value for name, value in how.items() if value is not None}
    stop = given.get("stop", ())
    given["stop"] = tuple(stop) if isinstance(stop, (list, tuple)) else (stop,)
    return Decoding(**given)  # pyright: ignore[reportArgumentType]


@said_plainly
def export(
    model: PathOrText,
    out: PathOrText,
    *,
    to: str = "transformers",
    code: bool = False,
    texts: Sequence[str] = (),
    rows: PathOrText | None = None,
    python: PathOrText | None = None,
    say: Callable[[str], object] | None = None,
) -> Path:
    """Write the model of a run as a plain Hugging Face folder, adapters merged into their base, or as other programs
    run it; nothing is overwritten.

    Args:
        model: a run directory or a model folder.
        out: a folder that does not exist yet.
        to: `transformers` (safetensors), `torch` (a program of torch.export), `onnx`, `onnx-int8` (matrices of 8
            bits), `savedmodel` (TensorFlow's) or `gguf` (llama.cpp's).
        code: as `evaluate` has it.
        texts: rows on which what is written is compared with the model, besides made ones; one that differs is refused.
        rows: a file of such rows, as `predict` reads it.
        python: an interpreter that has TensorFlow and keras-hub, for `savedmodel`; None: this one.
        say: told size, speed and difference.

    Returns:
        The folder.
    """
    from bigbatch.infer.export import export_folder

    file = None if rows is None else rows if is_address(rows) else Path(rows)
    ways = {"texts": texts, "rows": file, "python": None if python is None else str(python)}
    return export_folder(Path(model), Path(out), to=to, code=code, say=say, **ways)


def _told(opened: Loaded, say: Callable[[str], object] | None) -> Loaded:
    if say is not None:
        for note in opened.notes:
            say(f"note: {note}")
    return opened
