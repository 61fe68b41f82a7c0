"""Recommendation: what is learnt of a history, how items are ranked, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from bigbatch.data.item_windows import SEEN
from bigbatch.data.tokens import as_table
from bigbatch.errors import ModelError, RecipeError
from bigbatch.metrics.recommend import LISTED, NLL, RANK
from bigbatch.model.sequential import SPECIAL, item_tokenizer, sequential_model
from bigbatch.run.baseline import recommend
from bigbatch.samples import Targets
from bigbatch.tasks.base import NOT_AN_OPTION
from bigbatch.tasks.inputs import NoTokens
from bigbatch.tasks.recommend import Recommend
from bigbatch.tasks.vocabulary import Vocabulary
from tests.recommendations import histories, windows

ITEMS = ["a", "b b", "c", "<d>", "é"]
TOKENIZER = item_tokenizer(ITEMS)
FIRST = len(SPECIAL)


def task(length: int = 4, **options) -> Recommend:
    vocabulary = Vocabulary(size=8, rows=8, special_ids=(0, 1, 2), mask_id=2)
    return Recommend(**options).with_facts(max_length=length, block_length=length, vocabulary=vocabulary)


def test_each_item_is_a_token_whatever_its_name(tmp_path):
    assert [TOKENIZER(name)["input_ids"] for name in ITEMS] == [[FIRST + place] for place in range(5)]
    TOKENIZER.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.convert_tokens_to_ids(ITEMS) == list(range(FIRST, 8)) and again.unk_token_id == 1
    with pytest.raises(ModelError, match=r"an item is called '<mask>'"):
        item_tokenizer(["x", "<mask>"])


@pytest.mark.parametrize(("most", "stride"), [(12, 5), (4, 4), (4, 1), (7, 3), (200, 100), (1, 1)])
def test_windows_are_those_of_the_plain_loop(most, stride):
    rows = histories(50, seed=3)
    found = task(most, stride=stride)
    table = found.arrange(as_table(found.encode_batch(rows, None)))
    expected = [window for row in rows for window in windows(row["input_ids"], most, stride)]
    assert len(table) == len(expected)
    for number, window in enumerate(expected):
        own = table.take(np.array([number])).load()
        assert own.ids.tolist() == window["ids"]
        assert dict(zip(own.reads.tolist(), own.values.tolist(), strict=True)) == window["targets"]
    assert SEEN not in table.extras


def test_what_is_evaluated_knows_all_that_came_before():
    rows = [
        {"item": ["a", "c", "a", "gone", "é", "b b", "gone", "c"], "known": 5},
        {"item": ["c", "a"], "known": 0},
        {"item": ["gone", "gone"], "known": 1},
    ]
    found = task(2)
    table = found.fixed(found.arrange(as_table(found.encode_batch(rows, TOKENIZER))))
    assert table.values.tolist() == [4, 1, 5, 3] and table.lengths_B.tolist() == [2, 2, 1]
    assert table.extras[SEEN].tolist() == [[3, 5, 3, 7, 3], [3, 5, 3, 7, 4], [3, 5, 3, 7, 4], [5, 5, 5, 5, 5]]
    assert table.groups is not None and table.groups.tolist() == [0, 0, 1]
    assert len(found.encode_batch([{"item": ["gone", "a"], "known": 1}], TOKENIZER)[0].reads) == 0
    with pytest.raises(NoTokens):
        found.encode_batch([{"item": ["gone"]}], TOKENIZER, labelled=False)


def ranked(
    scores: list[list[float]], values: list[int], seen: list[list[int]] | None = None, **options
) -> np.ndarray:
    extras = {} if seen is None else {SEEN: torch.tensor(seen)}
    targets = Targets(values=torch.tensor(values), weights=torch.ones(len(values)), extras=extras)
    return task(**options).keep(torch.tensor(scores), targets).numpy()


def test_ranks_and_lists():
    scores = [9.0, 9, 9, 1, 2, 3, 4, 5]
    kept = ranked([scores] * 5, [5, 5, 7, 1, 7], [[7], [3], [7], [3], [6]])
    assert kept[:, RANK].tolist() == [2, 3, 5, 5, 1]
    assert kept[0, LISTED:].tolist() == [6, 5, 4, 3, -1] and kept[1, LISTED:].tolist() == [7, 6, 5, 4, -1]
    nats = float(torch.tensor(scores).logsumexp(0)) - 3
    assert kept[0, NLL] == pytest.approx(nats)
    # What is seen may come again where that is asked for; equal scores and no numbers help nobody.
    assert ranked([scores], [5], [[7]], repeats=True)[0, RANK] == 3
    assert ranked([[0.0] * 8], [5])[0, RANK] == 5
    assert ranked([[float("nan")] * 8], [5])[0, RANK] == 5
    assert ranked([[0, 0, 0, 1, 2, float("nan"), 0, 0]], [4])[0, RANK] == 2


def test_a_new_model_is_an_ordinary_one():
    for name, layers in (("gpt2", "n_layer"), ("llama", "num_hidden_layers")):
        settings = {"model_type": name, layers: 1}
        one, two = (
            sequential_model(11, "causal", settings, positions=9, dropout=0.3, seed=seed) for seed in (1, 1)
        )
        assert getattr(one.config, layers) == 1 and one.config.max_position_embeddings == 9
        assert one.get_input_embeddings().weight is one.get_output_embeddings().weight
        assert all(map(torch.equal, one.parameters(), two.parameters()))
    with pytest.raises(ModelError, match=r"model\.config\.layers: gpt2 has no such setting"):
        sequential_model(11, "causal", {"layers": 3}, positions=9, dropout=None, seed=0)
    with pytest.raises(ModelError, match="over items cannot be made"):
        sequential_model(11, "causal", {"model_type": "sasrec"}, positions=9, dropout=None, seed=0)


def test_options_are_checked():
    assert NOT_AN_OPTION and Recommend(stride=3).options["stride"] == 3
    for wrong in ({"stride": 0}, {"top": 0}):
        with pytest.raises(RecipeError, match="expected a number from 1"):
            Recommend(**wrong)


@pytest.mark.parametrize(("most", "names"), [(8, ["popular", "next_item", "item_knn"]), (7, ["popular"])])
def test_too_many_items_for_tables_of_pairs_are_told(monkeypatch, most, names):
    monkeypatch.setattr(recommend, "_MOST_ITEMS", most)
    rows = SimpleNamespace(tokenised=True, rows=pa.table({"input_ids": [[3, 4, 5], [4, 5, 6, 7]]}))
    found = list(recommend.recommend_baselines(task(), SimpleNamespace(rows=rows)))  # type: ignore[arg-type]
    assert [each.name for each in found] == names
    told = "the only one: next_item and item_knn take a table of all pairs of items, and 8 are above 7"
    assert [each.note for each in found] == ([told] if most == 7 else [""] * 3)
