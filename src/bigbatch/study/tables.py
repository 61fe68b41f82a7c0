"""Results for people: Markdown that also reads well on a console."""

from __future__ import annotations

from collections.abc import Sequence

from bigbatch.study.results import CEILING, Results, Round, Spread, figure, ratio

OURS = "bigbatch"
REFERENCES = ("hf-default", "hf-best")
TITLES = {
    "hf-default": "Trainer, defaults",
    "hf-best": "Trainer, at its best",
    "torch-loop": "plain PyTorch loop",
    "bigbatch": "bigbatch",
}
_COLUMNS = (
    ("tokens_per_second", "real tokens/s", 1, 0),
    ("samples_per_second", "samples/s", 1, 1),
    (CEILING, "share of best matrix product", 100, 0),
    ("predict_samples_per_second", "predicted samples/s", 1, 1),
    ("peak_memory_bytes", "peak memory, GiB", 2**-30, 2),
    ("first_update_seconds", "command to first update, s", 1, 1),
)


def contestants_table(results: Results) -> list[str]:
    """One row a contestant: median (least … greatest) over the rounds."""
    rows = [["median (range of rounds)", *(title for _, title, _, _ in _COLUMNS)]]
    for name in results.contestants:
        cells = []
        for key, _, scale, digits in _COLUMNS:
            unit = " %" if key == CEILING else ""
            cells.append(shown(figure(results, key, name), scale, digits, unit))
        rows.append([TITLES.get(name, name), *cells])
    return _table(rows)


def ratios_table(results: Results, contestant: str = OURS) -> list[str]:
    """How many times the reference's figure the contestant's is, pairwise within a round."""
    others = [name for name in results.contestants if name != contestant]
    if contestant not in results.contestants or not others:
        return []
    rows = [[f"{TITLES.get(contestant, contestant)} / …", *(TITLES.get(name, name) for name in others)]]
    for key, title, _, _ in _COLUMNS:
        if key != CEILING:
            rows.append([title, *(shown(ratio(results, key, contestant, name), 1, 2) for name in others)])
    return _table(rows)


def failures(results: Results) -> list[str]:
    """What the contestants that crashed had to say."""
    return [
        f"{TITLES.get(name, name)} failed in round {number}: {outcome.failed.strip()}"
        for number, each in enumerate(results.rounds, start=1)
        for name, outcome in each.outcomes.items()
        if outcome.failed is not None
    ]


def raw_table(results: Results) -> list[str]:
    """Every round's own figures."""
    rows = [
        ["round", "contestant", "seconds of the counted updates", "tokens/s", "peak GiB", "first update, s"]
    ]
    for number, each in enumerate(results.rounds, start=1):
        for name, one in each.outcomes.items():
            if one.failed is not None:
                rows.append([str(number), name, "failed", "", "", ""])
                continue
            figures = (
                one.seconds,
                one.tokens_per_second,
                one.peak_memory_bytes / 2**30,
                one.first_update_seconds,
            )
            rows.append([str(number), name, *(f"{value:,.2f}" for value in figures)])
    return _table(rows)


def ceiling_line(rounds: Sequence[Round]) -> str:
    """The machine's best matrix product of each round."""
    found = [f"{each.ceiling_flops / 1e9:,.0f}" if each.ceiling_flops else "-" for each in rounds]
    return f"Best matrix product by round, GFLOP/s: {', '.join(found)}"


def markdown(results: Results) -> str:
    """results.md: head, tables, raw figures."""
    setting = [f"- {name.replace('_', ' ')}: {_said(value)}" for name, value in results.setting.items()]
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in results.versions.items() if value)
    failed = failures(results)
    lines = [
        f"# Speed: {results.setting.get('recipe', 'a recipe')}",
        "",
        f"- date: {results.date}",
        f"- command: `{results.command}`",
        f"- machine: {machine}",
        f"- versions: {versions}",
        *setting,
        f"- useful work of the counted updates: {results.train_flops / 1e12:,.3f} TFLOP",
        f"- rounds: {len(results.rounds)}, the contestants taking turns",
        "",
        *contestants_table(results),
        "",
        *ratios_table(results),
        "",
        *([*(f"- {line}" for line in failed), ""] if failed else []),
        "## Every round",
        "",
        ceiling_line(results.rounds),
        "",
        *raw_table(results),
    ]
    return "\n".join(lines) + "\n"


def console(results: Results) -> list[str]:
    """What is printed at the end."""
    failed = failures(results)
    return [
        *contestants_table(results),
        "",
        *ratios_table(results),
        "",
        ceiling_line(results.rounds),
        *(["", *failed] if failed else []),
    ]


def shown(found: Spread | None, scale: float = 1, digits: int = 1, unit: str = "") -> str:
    """`2.2 (2.1 … 2.4)`; a dash for what does not exist.

    Args:
        found: median and range over the rounds; None: there are none.
        scale: what the numbers are multiplied by: 100 for percent.
        digits: behind the point.
        unit: written behind the median.
    """
    if found is None:
        return "–"
    middle, low, high = (f"{value * scale:,.{digits}f}" for value in (found.median, found.low, found.high))
    return f"{middle}{unit}" if found.rounds == 1 else f"{middle}{unit} ({low} … {high})"


def _said(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, float) and value > 1 else str(value)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns line up."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
