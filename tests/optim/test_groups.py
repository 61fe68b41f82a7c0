"""Who decays, who is there once, who is not there at all."""

from __future__ import annotations

from torch import nn

from bigbatch.optim.groups import decay_groups, names_of


class Small(nn.Module):
    """Embedding, norm, linear; the output layer tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.dense = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4)
        self.output = nn.Linear(4, 7, bias=False)
        self.output.weight = self.words.weight
        self.frozen.requires_grad_(False)


def test_matrices_decay_and_vectors_do_not() -> None:
    decaying, rest = decay_groups(Small(), 0.01)
    assert decaying["names"] == ["words.weight", "dense.weight"]
    assert rest["names"] == ["norm.weight", "norm.bias", "dense.bias"]
    assert (decaying["weight_decay"], rest["weight_decay"]) == (0.01, 0.0)
    assert (decaying["adapt"], rest["adapt"]) == (True, False)


def test_names_belong_to_their_parameters() -> None:
    model = Small()
    names = names_of(decay_groups(model))
    assert names[model.words.weight] == "words.weight"
    assert names[model.dense.bias] == "dense.bias"
    assert len(names) == 5
    assert model.frozen.weight not in names


def test_wrapper_prefixes_can_be_stripped() -> None:
    wrapped = nn.Sequential(nn.Linear(2, 2))
    (decaying, _) = decay_groups(wrapped, rename=lambda name: name.removeprefix("0."))
    assert decaying["names"] == ["weight"]


def test_empty_groups_are_left_out() -> None:
    assert [group["names"] for group in decay_groups(nn.Linear(2, 2, bias=False))] == [["weight"]]
    assert decay_groups(nn.Linear(2, 2).requires_grad_(False)) == []


def test_frozen_by_hand_is_excluded() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    assert [group["names"] for group in decay_groups(model, 0.1)] == [["bias"]]
