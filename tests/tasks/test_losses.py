from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from bigbatch.errors import RecipeError
from bigbatch.samples import Targets
from bigbatch.tasks.losses import UnitLoss, bce, class_weights, cross_entropy, default_loss, mse, resolve_loss

DTYPES = [torch.float32, torch.float64]


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def settings_of(**changed):
    return SimpleNamespace(
        **{"name": None, "label_smoothing": 0.0, "class_weights": "none", "args": {}} | changed
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_its_definition(dtype, smoothing):
    logits, values = 5 * random(7, 4, dtype=dtype), torch.tensor([0, 1, 2, 3, 3, -100, 0])
    logs = logits - logits.exp().sum(-1, keepdim=True).log()
    wanted = -(1 - smoothing) * logs.gather(1, values.clamp(min=0)[:, None])[:, 0] - smoothing * logs.mean(-1)
    wanted[5] = 0
    found = cross_entropy(logits, values, label_smoothing=smoothing)
    assert found.shape == (7,) and found.dtype == dtype
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bce_and_mse_are_torchs_without_reduction(dtype):
    outputs, hot = random(5, 3, dtype=dtype), (random(5, 3, seed=1) > 0).float()
    wanted = functional.binary_cross_entropy_with_logits(outputs, hot.to(dtype), reduction="none").mean(1)
    torch.testing.assert_close(bce(outputs, hot), wanted, rtol=0, atol=0)
    torch.testing.assert_close(mse(outputs, hot), ((outputs - hot) ** 2).mean(1))
    torch.testing.assert_close(mse(outputs[:, :1], hot[:, 0]), (outputs[:, 0] - hot[:, 0]) ** 2)


def test_half_precision_outputs_are_widened_first():
    logits, values = random(4, 3).bfloat16(), torch.tensor([0, 1, 2, 0])
    assert cross_entropy(logits, values).dtype == torch.float32
    torch.testing.assert_close(cross_entropy(logits, values), cross_entropy(logits.float(), values))


@given(st.lists(st.integers(0, 3), min_size=4, max_size=40).map(lambda rest: [0, 1, 2, 3, *rest]))
@settings(deadline=None, max_examples=30)
def test_balanced_weights_are_scikit_learns(values):
    found = class_weights("balanced", "abcd", np.array([*values, -100]))
    np.testing.assert_allclose(found, compute_class_weight("balanced", classes=np.arange(4), y=values))


def test_class_weights_by_name_and_without():
    assert class_weights("none", "ab", np.array([0])) is None
    assert class_weights({"b": 2}, "ab", np.array([0])) == (1.0, 2.0)
    assert class_weights("balanced", "abc", np.array([0, 0, 1, 1])) == (4 / 6, 4 / 6, 1.0)


def test_wrong_class_weights_are_all_named():
    with pytest.raises(RecipeError) as caught:
        class_weights({"positiv": 2, "negative": -1}, ["negative", "positive"], np.array([0]))
    assert len(caught.value.problems) == 2
    assert "did you mean 'positive'" in str(caught.value) and "'negative', 'positive'" in str(caught.value)
    with pytest.raises(RecipeError, match="expected none, balanced"):
        class_weights("balance", "ab", np.array([0]))


def targets(values, weights=None, **extras):
    values = torch.as_tensor(values)
    weights = torch.ones(len(values)) if weights is None else torch.tensor(weights)
    return Targets(values=values, weights=weights, extras=extras)


def test_a_loss_of_your_own_must_give_one_value_per_unit():
    def mean(logits, values):
        return functional.cross_entropy(logits, values)

    with pytest.raises(
        RecipeError, match=r"one value per unit \(reduction='none'\); this one returned a scalar"
    ):
        UnitLoss(name="mean", function=mean)(random(3, 2), targets([0, 1, 0]))
    with pytest.raises(RecipeError, match=r"shape \(3, 2\) for 3 units"):
        UnitLoss(name="wide", function=lambda logits, values: logits)(random(3, 2), targets([0, 1, 0]))
    with pytest.raises(RecipeError, match="returned a float"):
        UnitLoss(name="item", function=lambda logits, values: 1.0)(random(3, 2), targets([0, 1, 0]))


def test_a_loss_of_your_own_from_a_file(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def focal(logits, targets, gamma=2.0):\n"
        "    loss = torch.nn.functional.cross_entropy(logits, targets, reduction='none')\n"
        "    return (1 - torch.exp(-loss)) ** gamma * loss\n"
        "def scaled(logits, targets, extras):\n"
        "    return extras['confidence'] * logits[:, 0]\n"
    )
    focal = resolve_loss(settings_of(name="mine.py:focal", args={"gamma": 0.0}), tmp_path)
    logits, wanted = random(3, 2), targets([0, 1, 0])
    torch.testing.assert_close(focal(logits, wanted), cross_entropy(logits, wanted.values))
    assert focal.name == "focal"
    scaled = resolve_loss(settings_of(name="mine.py:scaled"), tmp_path)
    confidence = torch.tensor([0.5, 1.0, 2.0])
    found = scaled(logits, targets([0, 1, -100], confidence=confidence))
    torch.testing.assert_close(found, confidence * logits[:, 0])
    with pytest.raises(RecipeError, match="label_smoothing"):
        resolve_loss(settings_of(name="mine.py:focal", label_smoothing=0.1), tmp_path)


def test_names_of_losses(tmp_path: Path):
    assert resolve_loss(settings_of(name="cross_entropy"), tmp_path, kind="multi") == default_loss("multi")
    assert resolve_loss(settings_of(), tmp_path, kind="regression").name == "mse"
    assert resolve_loss(settings_of(label_smoothing=0.1), tmp_path).args == {"label_smoothing": 0.1}
    with pytest.raises(RecipeError, match="did you mean cross_entropy"):
        resolve_loss(settings_of(name="crossentropy"), tmp_path)
    with pytest.raises(RecipeError, match="mse does not fit kind single"):
        resolve_loss(settings_of(name="mse"), tmp_path)
    with pytest.raises(RecipeError, match="label_smoothing"):
        resolve_loss(settings_of(label_smoothing=0.1), tmp_path, kind="multi")
    with pytest.raises(RecipeError, match="takes no args"):
        resolve_loss(settings_of(args={"gamma": 1}), tmp_path)
