from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import bigbatch
from bigbatch.facts import Choice
from bigbatch.plan.frozen import Plan
from bigbatch.report.compare import compare_runs
from tests.report.fake_run import records, write_run

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.frames: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.frames += [dict(attrs)] if tag == "iframe" else []


def tags(page: str) -> Tags:
    found = Tags()
    found.feed(page)
    return found


def test_a_notebook_draws_a_run_and_runs_nothing(tmp_path: Path) -> None:
    import json

    folder = write_run(tmp_path / "tweets")
    lines = [line | ({"split": EVIL} if line.get("split") == "test" else {}) for line in records()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = bigbatch.read(folder)._repr_html_()
    assert "svg" in tags(page).found and not {"script", "img"} & set(tags(page).found)
    assert "88" in page and "predicted" in page and "alert(1)" in page


def test_a_comparison_is_a_frame_without_scripts(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("one", "two")]
    (frame,) = tags(compare_runs(runs)._repr_html_()).frames
    assert frame["sandbox"] is None and "<svg" in str(frame["srcdoc"])  # no permission is given


def test_a_plan_is_a_table() -> None:
    plan = Plan(choices={"packing": Choice(value="packed", reason=EVIL, source="measured")})
    page = plan._repr_html_()
    assert "script" not in tags(page).found and page.count("<tr>") == 2 and "packed" in page
