from __future__ import annotations

import pytest

from bigbatch.errors import UsageError
from bigbatch.study.points import points_of, read_axis


def values(*words):
    return [dict(point.values) for point in points_of([read_axis(word) for word in words])]


def test_the_first_axis_moves_fastest():
    assert values("batch.samples=16,64", "seed=0,1") == [
        {"batch.samples": "16", "seed": "0"},
        {"batch.samples": "64", "seed": "0"},
        {"batch.samples": "16", "seed": "1"},
        {"batch.samples": "64", "seed": "1"},
    ]


def test_commas_inside_brackets_and_quotes_belong_to_a_value():
    assert values("optimizer.betas=[0.9,0.999],[0.9,0.95]") == [
        {"optimizer.betas": "[0.9,0.999]"},
        {"optimizer.betas": "[0.9,0.95]"},
    ]
    assert values('task={name: classify, labels: ["a,b", c]},tag')[0] == {
        "task": '{name: classify, labels: ["a,b", c]}'
    }


def test_keys_that_move_together():
    assert values("optimizer.name+optimizer.lr=adamw+5e-4,lamb+6e+0") == [
        {"optimizer.name": "adamw", "optimizer.lr": "5e-4"},
        {"optimizer.name": "lamb", "optimizer.lr": "6e+0"},
    ]


def test_names_can_be_folders_and_tell_points_apart():
    points = points_of([read_axis("model.name=a/b,a_b"), read_axis("seed=0")])
    names = [point.name for point in points]
    assert names[1] == "model.name-a_b,seed-0"
    assert names[0].startswith("model.name-a_b,seed-0-") and len(set(names)) == 2
    long = points_of([read_axis(f"model.name={'x' * 300}1,{'x' * 300}2")])
    assert len({point.name for point in long}) == 2 and all(len(point.name) < 120 for point in long)
    assert points[0].words == ["model.name=a/b", "seed=0"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("batch", "expected KEY=VALUE"),
        ("=16,64", "expected KEY=VALUE"),
        ("batch=16,,64", "expected KEY=VALUE"),
        ("run.dir=a,b", "run.dir is the same for all points"),
        ("batch=16,64,16", "a value is there twice"),
        ("a+b=1+2,3", "3 has 1 parts for 2 keys"),
    ],
)
def test_wrong_words(word, said):
    with pytest.raises(UsageError, match=said.replace("+", r"\+")):
        read_axis(word)


def test_wrong_axes():
    with pytest.raises(UsageError, match="at least one --over"):
        points_of([])
    with pytest.raises(UsageError, match="seed is there twice"):
        points_of([read_axis("seed=0,1"), read_axis("seed=2")])


def test_axes_of_seeds_only_repeat():
    assert read_axis("seed=0,1").is_seed and read_axis("seed.data=0,1").is_seed
    assert not read_axis("seed+batch=0+8,1+16").is_seed
