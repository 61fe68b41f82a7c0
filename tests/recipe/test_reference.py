from __future__ import annotations

from bigbatch.recipe.keys import all_keys, siblings, walk
from bigbatch.recipe.reference import field_docs, reference


def test_every_key_has_a_docstring():
    docs = field_docs()
    assert [key for key, owner, name, _ in walk() if not docs.get((owner.__name__, name))] == []


def test_every_key_stands_in_the_reference():
    text = reference()
    parents = {"data.validation": "data.train", "data.test": "data.train"}
    for key in all_keys():
        parent, _, last = key.rpartition(".")
        section = (
            text.split(f"### {parents.get(parent, parent)}\n")[1].split("### ")[0]
            if parent
            else text.split("###")[0]
        )
        assert f"`{last}`" in section, key


def test_types_defaults_and_what_is_planned_are_shown():
    lines = reference().splitlines()
    row = {line.split(" | ")[0].strip("| `"): line for line in lines if line.startswith("| `")}
    assert "| number / `auto` | `5e-05` |" in row["lr"]
    assert "| list of 2 numbers | `[0.9, 0.999]` |" in row["betas"]
    assert "today `cross_entropy`" not in row["state"] and "`bf16_sr`" in row["state"]
    assert "(planned, not built yet: `freelb`, `rdrop`)" in reference()
    assert "| quantity | `6 %` |" in row["warmup"]
    assert "| `auto` / list of text | `auto` |" in row["targets"]
    assert "`adamw` / `sgd` / `lamb` / `lars` / `lion` / `muon` / `schedule_free` / reference" in "\n".join(
        lines
    )


def test_every_line_of_a_table_has_four_cells():
    rows = [line for line in reference().splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {5}


def test_siblings_of_a_section():
    assert siblings("seed") == ("model", "data", "dropout")
    assert "optimizer" in siblings("") and "optimizer.lr" not in siblings("")
    options = {
        *("kind", "labels", "scheme", "pieces"),
        *("probability", "whole_word", "mask_share", "random_share", "mask_id", "blocks", "not_predicted"),
        *("temperature", "similarity", "symmetric", "pooling", "query_prefix", "document_prefix", "towers"),
        *("source_prefix", "target_max_length", "beams"),
        *("dimensions", "dimension_weights", "false_negatives", "beta", "centring"),
        *("template", "turns", "too_long", "special"),
        *("stride", "max_query_length", "max_answer_tokens", "null_threshold", "n_best", "language"),
        *("augment", "reverse_complement", "no_object", "weights", "outside", "threshold"),
        *("distance", "separation", "channels"),
        *("repeats", "top"),
        *("hide_class", "times", "steps", "guidance"),
    }
    assert set(siblings("task")) == {"name", "args", *options}
