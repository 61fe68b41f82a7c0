"""The analysis of a run: of its own way and the plain way, kept at the end of long runs, and never in the way."""

from __future__ import annotations

import json
import threading

import pytest
import torch

from bigbatch import commands
from bigbatch.build.graph import analyse_parts
from bigbatch.plan.graph import GraphAnalysis
from bigbatch.run import between, finish
from bigbatch.step.ahead import Supply
from tests.jobs import HELD_OUT, differing, document, events, exhaust, lines, start, weights
from tests.models import tiny
from tests.run.jobs import tiny_model

PACKED = {"plan.packing": "packed"}


def test_a_run_is_analysed_as_it_runs_and_the_plain_way(tmp_path):
    with start(tmp_path / "r", tiny("bert"), set=PACKED) as run:
        before = weights(run)
        found = analyse_parts(run._parts)
        assert not differing(before, weights(run))
        for _ in run:
            pass
    other = exhaust(start(tmp_path / "s", tiny("bert"), set=PACKED))
    assert not differing(weights(run), weights(other)), "looking changes nothing of what follows"
    assert found.forward == "packed" and found.plain is not None and found.padding is not None
    assert found.padding.samples == 16 and found.padding.packed == 0 < found.padding.random_32
    assert found.plain.computed_tokens >= found.computed_tokens
    assert run._parts.plan.value("last_block") == "read tokens"
    assert not [one for one in found.of("unread") if one.where == "block 2"]
    assert found.cost.flops < found.plain.cost.flops


def test_the_plain_way_has_nothing_to_be_compared_with(tmp_path):
    with start(tmp_path / "r", tiny("bert")) as run:
        found = analyse_parts(run._parts)
    assert found.forward == "padded" and found.plain is None
    assert found.of("unread")[0].where == "block 2"


def test_long_runs_keep_it_for_their_report(tmp_path, monkeypatch):
    monkeypatch.setattr(finish, "LONG_ENOUGH_SECONDS", 0.0)
    exhaust(start(tmp_path / "r", validation=HELD_OUT))
    found = GraphAnalysis.from_json(document(tmp_path / "r", "graph.json"))
    assert found.cost.flops > 0
    page = commands.report(tmp_path / "r").read_text(encoding="utf-8")
    assert 'id="graph"' in page and "block 2" in page
    exhaust(start(tmp_path / "r", validation=HELD_OUT))


def test_short_runs_do_not(tmp_path):
    exhaust(start(tmp_path / "r"))
    assert not (tmp_path / "r/graph.json").exists()
    assert 'id="graph"' not in commands.report(tmp_path / "r").read_text(encoding="utf-8")


def test_an_analysis_that_fails_is_an_event_and_the_run_finishes(tmp_path, monkeypatch):
    def fail(parts):
        raise RuntimeError("no such operation\nand more")

    monkeypatch.setattr(finish, "LONG_ENOUGH_SECONDS", 0.0)
    monkeypatch.setattr(finish, "analyse_parts", fail)
    run = exhaust(start(tmp_path / "r"))
    assert run.status == "finished" and (tmp_path / "r/result.json").exists()
    (event,) = events(tmp_path / "r", "graph_not_analysed")
    assert event["why"] == "RuntimeError: no such operation"


def test_the_command_prints_and_draws(tmp_path, monkeypatch):
    model = tiny_model(tmp_path / "model")
    rows = [{"text": "the flight was great", "label": "good"}, {"text": "never again", "label": "bad"}] * 40
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(
        f"model: {model}\ntask: classify\ndata: {{train: train.jsonl, columns: {{text: text, label: label}}}}\n"
        "batch: 16\nupdates: 60\nplan: {micro_tokens: 64}\n"
    )
    plain = commands.plan(tmp_path / "r.yaml")
    told = commands.plan(tmp_path / "r.yaml", graph=tmp_path / "g.html")
    assert not any("one micro-batch" in line for line in plain)
    assert any(line.startswith("one micro-batch, packed") for line in told)
    assert told[-1] == str(tmp_path / "g.html") and "<svg" in (tmp_path / "g.html").read_text()


# ---------------------------------------------------------------- cutting ahead, as on an accelerator


@pytest.fixture
def ahead(monkeypatch):
    """Micro-batches are cut in a thread on this machine, too."""

    def build(batches, cut, *, last_update, lead):
        return Supply(batches, cut, last_update=last_update, lead=3)

    monkeypatch.setattr(between, "Supply", build)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "bigbatch-ahead"]


def test_cutting_ahead_changes_no_bit(tmp_path, ahead, monkeypatch):
    mine = exhaust(start(tmp_path / "ahead", validation=HELD_OUT, set={"run.evaluate_every": "1 updates"}))
    assert not threads()
    monkeypatch.undo()
    theirs = exhaust(start(tmp_path / "plain", validation=HELD_OUT, set={"run.evaluate_every": "1 updates"}))
    assert not differing(weights(mine), weights(theirs))
    keys = ("step", "samples", "tokens", "loss", "grad_norm", "padding_share")
    for one, other in zip(
        lines(tmp_path / "ahead", "update"), lines(tmp_path / "plain", "update"), strict=True
    ):
        assert [one[key] for key in keys] == [other[key] for key in keys]


def test_out_of_memory_is_replayed_with_smaller_pieces(tmp_path, ahead):
    module, armed = tiny("bert", dropout=0.1), []

    def no_room(_module, _args, kwargs):
        if armed and kwargs["input_ids"].numel() > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")

    module.register_forward_pre_hook(no_room, with_kwargs=True)
    with start(tmp_path / "r", module, set={"plan.micro_tokens": 128}) as run:
        armed.append(True)
        for _ in run:
            pass
    assert [event["micro_tokens"] for event in events(tmp_path / "r", "out_of_memory")] == [64, 32]
    small = exhaust(start(tmp_path / "s", tiny("bert", dropout=0.1), set={"plan.micro_tokens": 32}))
    assert not differing(weights(run), weights(small))
    assert not threads()


def test_a_run_that_is_left_early_leaves_no_thread(tmp_path, ahead):
    with start(tmp_path / "r") as run:
        for record in run:
            if record.kind == "update":
                assert threads()
                break
    assert run.status == "interrupted" and not threads()
    again = exhaust(start(tmp_path / "r"))
    whole = exhaust(start(tmp_path / "s"))
    assert not differing(weights(again), weights(whole))
