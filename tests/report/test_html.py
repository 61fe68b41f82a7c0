from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigbatch.errors import DiskError, UsageError
from bigbatch.report.html import render_report, write_atomic, write_report
from bigbatch.report.read import read_run
from tests.report.fake_run import RECIPE, choice, plan, quality, records, result, write_run

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "\x1b[31mred",
    "=cmd|'/c calc'!A0",
]
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Every element, every attribute and all text of a page; complains about elements that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_the_report_states_every_figure(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tweets")
    text = page(run).text
    ended = read_run(run).result
    for words in (
        "tweets", "finished", "23 November 2026", "all-MiniLM-L6-v2, trained to classify.", "256 samples per update.",
        f"{ended['best']['value']:.3f}", f"{ended['final']['test']['accuracy']:.3f}", "Training time", "samples/s",
        "tokens/s", "Peak memory", "Padding avoided", "Loss", "Learning rate", "Gradient norm", "Confusion matrix, test",
        "Calibration, test", "Most confidently wrong", "98.1\xa0% sure".replace("\xa0", " "), "micro_tokens",
        "fastest of 512, 1,024, 2,048 and 4,096", "Predicted against measured", "8 min 18 s", "the gradient norm was infinite",
        "AutoModelForSequenceClassification", "optimizer:", "torch", "2.13.0+cpu", "1 update was skipped.",
    ):  # fmt: skip
        assert words in text, words


def test_the_report_is_offline_and_runs_nothing(tmp_path: Path) -> None:
    found = page(write_run(tmp_path / "run"))
    policy = next(value for key, value in found.attributes if key == "content")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert not {"script", "link", "iframe", "object", "embed", "form", "img", "base"} & set(found.tags)
    assert not [
        key for key, _ in found.attributes if key.startswith("on") or key in ("src", "action", "srcset")
    ]
    assert all(value.startswith("#") for key, value in found.attributes if key == "href")
    assert not re.search(r"@import|url\(|javascript:", write_report(tmp_path / "run").read_text())


def test_it_is_readable_in_light_and_dark_and_on_phones(tmp_path: Path) -> None:
    text = write_report(write_run(tmp_path / "run")).read_text()
    assert "prefers-color-scheme: dark" in text and "color-scheme: light dark" in text
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    used = set(re.findall(r"var\(--([\w-]+)\)", text))
    light, dark = (
        set(re.findall(r"--([\w-]+):", block)) for block in re.findall(r":root \{(.*?)\}", text, re.S)
    )
    assert used <= light and used == used & dark


@pytest.mark.parametrize("label", HOSTILE)
def test_hostile_words_are_shown_and_never_run(tmp_path: Path, label: str) -> None:
    entry = quality([label, "neutral", "positive"])["test"]
    entry["examples"] = [{"text": label, "label": label, "predicted": label, "probability": 0.9}]
    event = {
        "kind": "event",
        "time": label,
        "step": 1,
        "event": label,
        "why": label,
        "did": label,
        label: label,
    }
    evaluated = [line | {label: 0.5} for line in records() if line["kind"] == "eval"]
    journal = "".join(json.dumps(line) + "\n" for line in [*records(), *evaluated, event])
    files = {
        "recipe.yaml": RECIPE + f"# {label}\n",
        "plan.json": plan() | {label: choice(label, label, label, 1.0, label), "warnings": [label]},
        "environment.json": {label: label},
        "status.json": {"state": label},
        "metrics.jsonl": journal,
        "result.json": result(records())
        | {"predicted": {label: 1.0}, "best": {"metric": label, "value": 1.0}},
        "evaluation.json": {label: entry},
    }
    folder = tmp_path / "run"
    found = page(write_run(folder, files=files))
    plain = page(write_run(tmp_path / "plain"))
    assert set(found.tags) <= set(plain.tags) | {"ul"}
    assert not [key for key, _ in found.attributes if key.startswith("on")]
    assert {key for key, _ in found.attributes} <= {key for key, _ in plain.attributes}
    assert label.replace("\x1b", "\\x1b") in found.text
    assert "\x1b" not in (folder / "report.html").read_text()


def test_a_run_name_is_escaped(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "<b onclick=x>&run")
    assert "<b onclick=x>&run" in page(folder).text


def test_secrets_stay_out(tmp_path: Path) -> None:
    secret = "hf_abcdefghijklmnopqrstuvwxyz"
    files = {"recipe.yaml": RECIPE + f"observers: [{secret}]\nargs: {{}}\napi_key: topsecret\n",
             "environment.json": {"wandb_api_key": "topsecret", "note": secret}}  # fmt: skip
    text = write_report(write_run(tmp_path / "run", files=files)).read_text()
    assert secret not in text and "topsecret" not in text
    assert "[removed]" in text


def test_a_run_that_goes_on_has_a_report_too(tmp_path: Path) -> None:
    text = page(write_run(tmp_path / "run", finished=False)).text
    assert "running" in text and "The measurement follows when the run has finished." in text
    assert "Use the model" not in text and "Most confidently wrong" not in text


def test_a_run_that_has_only_started_has_a_report_too(tmp_path: Path) -> None:
    files = dict.fromkeys(
        ["metrics.jsonl", "plan.json", "environment.json", "result.json", "evaluation.json"]
    )
    text = page(write_run(tmp_path / "run", finished=False, files=files)).text
    assert "nothing recorded yet" in text and "No plan was written." in text


def test_what_could_not_be_read_is_said(tmp_path: Path) -> None:
    assert "plan.json is not valid JSON: " in page(write_run(tmp_path / "run", files={"plan.json": "{"})).text


def test_a_regression_run_has_no_classes(tmp_path: Path) -> None:
    rows = [{"text": "a house", "label": 3.5, "predicted": 9.25, "probability": None}]
    entry = {"test": {"confusion": None, "labels": None, "calibration": [], "examples": rows}}
    text = page(write_run(tmp_path / "run", files={"evaluation.json": entry})).text
    assert "label 3.500 predicted 9.250" in text
    assert "Confusion matrix" not in text and "% sure" not in text


def test_many_classes_show_the_weakest(tmp_path: Path) -> None:
    size = 60
    counts = [
        [90 - row if row == column else int(column == 0) for column in range(size)] for row in range(size)
    ]
    entry = {"test": {"labels": [f"intent {n}" for n in range(size)], "confusion": counts}}
    text = page(write_run(tmp_path / "run", files={"evaluation.json": entry})).text
    assert "The 25 weakest of 60 classes." in text and "Confusion matrix" not in text
    assert "intent 59" in text and "intent 20 " not in text.split("Most often confused")[0]


def test_hundreds_of_events_are_cut_and_said(tmp_path: Path) -> None:
    event = {
        "kind": "event",
        "time": "2026-11-23T10:00:00Z",
        "step": 1,
        "event": "nonfinite",
        "why": "",
        "did": "",
    }
    journal = "".join(json.dumps(line) + "\n" for line in [*records(), *[event] * 300])
    assert (
        "202 more are in metrics.jsonl."
        in page(write_run(tmp_path / "run", files={"metrics.jsonl": journal})).text
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
known_keys = st.sampled_from(
    ["best", "final", "predicted", "test", "confusion", "labels", "calibration", "examples", "value", "prediction",
     "version", "parts", "findings", "cost", "metric", "train_seconds", "warnings", "choices", "reason", "source", "unit", "text", "probability", "state"]
)  # fmt: skip
documents = st.dictionaries(
    known_keys, st.dictionaries(known_keys, json_values, max_size=4) | json_values, max_size=5
)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(
    plan=documents,
    result=documents,
    evaluation=documents,
    graph=documents,
    lines=st.lists(st.fixed_dictionaries(
        {"kind": st.sampled_from(["update", "eval", "event"]), "step": json_values},
        optional={"samples": json_values, "loss": json_values, "time": json_values, "split": json_values,
                  "seconds": json_values, "batch_tokens": json_values, "padding_share": json_values,
                  "event": json_values, "why": json_values},
    ), max_size=6),
)  # fmt: skip
def test_no_document_breaks_the_report(
    tmp_path_factory: pytest.TempPathFactory, plan: Any, result: Any, evaluation: Any, graph: Any, lines: Any
) -> None:
    journal = "".join(json.dumps(line) + "\n" for line in lines)
    files = {
        "plan.json": plan,
        "result.json": result,
        "evaluation.json": evaluation,
        "graph.json": graph,
        "metrics.jsonl": journal,
    }
    Page(render_report(read_run(write_run(tmp_path_factory.mktemp("any"), files=files))))


def test_an_older_report_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    write_atomic(path, "old")

    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(DiskError, match="no space"):
        write_atomic(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]
    write_atomic(path, "new")
    assert (path.read_text(), oct(path.stat().st_mode & 0o777)) == ("new", "0o644")


def test_what_is_no_run_gets_no_report(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        write_report(tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_precision_audit_is_a_table(tmp_path):
    write_run(tmp_path / "r")
    page = render_report(read_run(tmp_path / "r"))
    assert "Precision audit" not in page
    block = {
        "block": "bert.encoder.layer.0<b>", "format": "fp16", "forward_error": 0.0123, "gradient_error": None,
        "overflow_share": 0.25, "gradient_underflow_share": 0.0, "unmoved_share": 0.5, "verdict": "25 % exceed",
    }  # fmt: skip
    audit = {"format": "fp16", "samples": 8, "loss_scale": 1024.0, "verdict": "doubtful", "blocks": [block]}
    (tmp_path / "r/audit.json").write_text(json.dumps(audit))
    page = render_report(read_run(tmp_path / "r"))
    assert "fp16 against fp32 on 8 real samples, gradients at a loss scale of 1,024." in page
    for text in (
        "bert.encoder.layer.0&lt;b&gt;",
        "1.23\xa0%",
        "25.00\xa0%",
        "50.00\xa0%",
        "–",
        "25 % exceed",
    ):
        assert text in page, text


def test_a_folder_in_place_of_the_report_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "report.html").mkdir()
    with pytest.raises(DiskError, match=r"cannot write .*report.html: Is a directory"):
        write_report(run)
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]


def held(folder: Path, **changes: Any) -> Path:
    """A finished run with a verdict."""
    said = {
        "verdict": "better than a bag of words by 3.1 points of macro F1",
        "baseline": {"bag_of_words": {"test": {"f1_macro": 0.777, "accuracy": 0.8}}},
        "model": "org/base",
        **changes,
    }
    return write_run(folder, files={"result.json": {**result(records()), **said}})


def test_the_first_line_is_the_verdict_and_the_model_has_its_bases_name(tmp_path: Path) -> None:
    text = page(held(tmp_path / "run")).text
    first, second = (
        text.index("Better than a bag of words by 3.1 points"),
        text.index("org/base, trained to classify"),
    )
    assert 0 < first < second < text.index("Learning curves" if "Learning curves" in text else "F1 macro")
    assert "bag of words: test" in text and "0.777" in text


@pytest.mark.parametrize("text", HOSTILE)
def test_a_verdict_with_names_of_classes_is_only_text(tmp_path: Path, text: str) -> None:
    baselines = {text: {"test": {text: 0.5}}}
    found = page(
        held(tmp_path / "run", verdict=f"class {text} is never predicted", model=text, baseline=baselines)
    )
    assert "script" not in found.tags and not [name for name, _ in found.attributes if name.startswith("on")]
    assert "\x1b" not in found.text


@pytest.mark.parametrize(("share", "grade"), [(0.9, "warn"), (0.99, "good"), (1.05, "good"), (0.5, "warn")])
def test_memory_that_was_under_predicted_is_marked(tmp_path: Path, share: float, grade: str) -> None:
    """Ten per cent too little looks harmless in a table, and is what ends runs."""
    measured = result(records())["peak_memory_bytes"]
    lines = records()
    figures = {**result(lines), "predicted": {"peak_memory_bytes": share * measured}}
    write_run(tmp_path / "run", files={"result.json": figures})
    html = write_report(tmp_path / "run").read_text()
    assert f'<div class="error {grade}">' in html


def test_the_large_loss_says_which_it_is(tmp_path: Path) -> None:
    lines = records()
    figures = {**result(lines), "best": {"metric": "loss", "value": 0.41, "step": 44}}
    write_run(tmp_path / "run", files={"result.json": figures})
    text = page(tmp_path / "run").text
    assert "Loss on validation 0.410 best on validation, after update 44" in text
