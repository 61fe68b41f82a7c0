"""The noise scale on a report's page: what is said, and which curves there are, from few and from many measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bigbatch.report.html import render_report
from bigbatch.report.noise import noise_section
from bigbatch.report.read import RunData, read_run
from tests.report.fake_run import records, write_run

EVERY = 4
"""Updates from one measurement to the next."""


def measured(folder: Path, fields: list[dict[str, float | None]], batch: int = 256) -> RunData:
    """A run whose every fourth update was measured; `fields` are those of the measurements, in order."""
    lines: list[dict[str, Any]] = records(EVERY * max(len(fields), 6), batch=batch)
    updates = [line for line in lines if line["kind"] == "update"]
    for number, found in enumerate(fields, start=1):
        updates[EVERY * number - 1] |= {"noise_scale_measurements": number, **found}
    journal = "".join(json.dumps(line) + "\n" for line in lines)
    return read_run(write_run(folder / "run", files={"metrics.jsonl": journal}))


def test_a_run_that_was_not_measured_has_no_section(tmp_path: Path) -> None:
    assert noise_section(measured(tmp_path, [])) is None


def test_before_there_is_an_interval_the_curve_stands_alone(tmp_path: Path) -> None:
    """The journal of a short run has neither bounds nor Adam's units in any record."""
    run = measured(tmp_path, [{"noise_scale": 200.0}, {"noise_scale": 230.0}])
    section = noise_section(run)
    assert section is not None
    assert section["sentence"] == (
        "2 updates were measured: 30 are needed to say how large a batch is worth using."
    )
    page = render_report(run)
    assert "noise scale" in page and "95 %, lower end" not in page and "batch in use" in page


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (180.0, 310.0, "(95 %: 180 to 310); you use 256."),
        (
            1000.0,
            None,
            "(95 %: at least 1,000); you use 256. A larger batch would need almost proportionally fewer updates.",
        ),
        (
            20.0,
            60.0,
            "(95 %: 20 to 60); you use 256. A smaller batch would need fewer samples, and hardly more updates.",
        ),
    ],
)
def test_the_sentence_says_what_the_whole_interval_says(
    tmp_path: Path, low: float, high: float | None, words: str
) -> None:
    fields: list[dict[str, float | None]] = [{"noise_scale": 230.0} for _ in range(29)]
    run = measured(
        tmp_path, [*fields, {"noise_scale": 230.0, "noise_scale_low": low, "noise_scale_high": high}]
    )
    section = noise_section(run)
    assert section is not None and section["sentence"].endswith(words)
    page = render_report(run)
    assert "95 %, lower end" in page and ("95 %, upper end" in page) == (high is not None)


def test_what_is_larger_than_measurable_is_said_and_not_drawn(tmp_path: Path) -> None:
    run = measured(tmp_path, [{"noise_scale": None, "noise_scale.head": None, "noise_scale.block 0": 12.0}])
    section = noise_section(run)
    assert section is not None
    assert section["sentence"].startswith("1 update was measured: 30 are needed")
    many = [{"noise_scale": None, "noise_scale.head": None, "noise_scale.block 0": 12.0}] * 30
    sentence = (noise_section(measured(tmp_path / "many", many)) or {})["sentence"]
    assert sentence.startswith("How large a batch is worth using is larger than measurable")
    assert section["groups"] == [("head", "larger than measurable"), ("block 0", "12 samples")]
    assert "larger than measurable" in render_report(run)
