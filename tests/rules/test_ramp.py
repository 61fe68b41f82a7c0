from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from bigbatch.errors import RecipeError
from bigbatch.rules.ramp import Ramp, ramp_from, ramp_length, ramp_samples, scaled_in_stage
from bigbatch.rules.schedules import Schedule
from bigbatch.units import Quantity, parse_quantity


@dataclass(frozen=True)
class Settings:
    start: int = 64
    by: str = "schedule"
    table: dict[str, int] = field(default_factory=dict)

    def steps(self):
        return [(parse_quantity(when), size) for when, size in self.table.items()]


@dataclass(frozen=True)
class Adam:
    name: str = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    base_batch: int | None = None
    lr_rule: str = "none"
    betas_rule: str = "keep"
    noise_scale: float | None = None


def linear(total, warmup=0.0, final=0.0, name="linear"):
    return Schedule(
        name=name, total_samples=total, warmup_samples=warmup, decay_samples=0.0, final_fraction=final
    )


def laid(settings=None, batch=1024, total=64_000, epoch=32_000, schedule=None):
    return ramp_from(settings or Settings(), batch, total, epoch, schedule or linear(total))


@pytest.mark.parametrize(
    ("first", "last", "sizes"),
    [(64, 1024, (64, 128, 256, 512, 1024)), (64, 768, (64, 128, 256, 768)), (10, 70, (10, 70))],
)
def test_sizes_grow_by_whole_factors(first, last, sizes):
    assert laid(Settings(start=first), last).sizes == sizes


@pytest.mark.parametrize(("first", "last"), [(64, 100), (64, 64), (128, 64)])
def test_sizes_that_are_no_multiples_are_refused(first, last):
    with pytest.raises(RecipeError, match=r"batch\.ramp\.from"):
        laid(Settings(start=first), last)


def test_by_the_schedule_the_batch_doubles_where_the_rate_has_halved():
    """Linear: 1/2 at half of the run, 1/4 at three quarters, … and the rate times sqrt(k)."""
    ramp = laid()
    assert ramp.marks == pytest.approx((32_000, 48_000, 56_000, 60_000), rel=1e-6)
    peaks = [scaled_in_stage(Adam(), ramp, stage).lr for stage in range(5)]
    assert peaks == pytest.approx([1e-3 * 2 ** (stage / 2) for stage in range(5)])
    factor = linear(64_000).factor_at(32_000)
    assert factor * peaks[1] == pytest.approx(1e-3 / math.sqrt(2)), "lr / sqrt(2) where it would be halved"


def test_by_the_schedule_only_behind_the_peak():
    """The warm-up passes 1/2 as well."""
    ramp = laid(schedule=linear(64_000, warmup=16_000))
    assert ramp.marks is not None and ramp.marks[0] == pytest.approx(40_000, rel=1e-6)


def test_a_schedule_that_never_falls_so_far():
    ramp = laid(schedule=linear(64_000, final=0.3))
    assert ramp.marks is not None and ramp.marks[1:] == (math.inf,) * 3
    assert "256 (never reached)" in str(ramp)
    assert {ramp.sizes[stage] for _, stage in ramp.walk()} == {64, 128}


def test_the_users_own_rule_is_the_rule():
    ramp = laid()
    told = Adam(base_batch=256, lr_rule="linear", betas_rule="half_life")
    here = scaled_in_stage(told, ramp, 4)
    assert here.lr == pytest.approx(4e-3) and here.betas == pytest.approx((0.9**4, 0.999**4))


def test_other_ramps_leave_the_rate_as_typed():
    ramp = laid(Settings(by="table", table={"10 %": 1024}))
    assert scaled_in_stage(Adam(), ramp, 1).lr == 1e-3


def test_a_walk_uses_every_sample_once_and_the_last_batch_takes_what_is_left():
    ramp = laid(Settings(by="table", table={"1000 samples": 128, "0.5 epochs": 1024}), total=64_000)
    position = 0
    for at, stage in ramp.walk():
        assert at == position
        expected = 64 if at < 1000 else 128 if at < 16_000 else 1024
        assert ramp.sizes[stage] == expected
        assert ramp.samples(at, stage) in (expected, 64_000 - at)
        position += ramp.samples(at, stage)
    assert position == 64_000
    length = ramp_length(ramp, 32_000)
    assert length.exact and length.samples == 64_000 and length.epochs == 2.0
    # 1,024 samples in batches of 64, 15,104 to the first boundary behind 16,000, and the rest.
    assert length.updates == 16 + 117 + 47


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"10 %": 128}, "last size must be"),
        ({"10 %": 100, "20 %": 1024}, "no whole multiple of 64"),
        ({"20 %": 128, "10 %": 1024}, "later than the one before"),
        ({"0 %": 1024}, "the first after the start"),
        ({"3 updates": 1024}, "expected samples, epochs or %"),
    ],
)
def test_tables_that_make_no_sense(table, said):
    with pytest.raises(RecipeError, match=said):
        laid(Settings(by="table", table=table))


def test_by_noise_it_grows_after_two_measurements_that_agree_and_never_shrinks():
    ramp = laid(Settings(by="noise"))
    state, seen = (0, 0), []
    for low in (None, 200.0, 100.0, 200.0, 200.0, 300.0, 255.9, 256.0, 1e9, 1e9, 1e9, 1e9, 1e9, 0.0):
        state = ramp.after_measurement(*state, low)
        seen.append(ramp.sizes[state[0]])
    assert seen == [64, 64, 64, 64, 128, 128, 128, 128, 256, 256, 512, 512, 1024, 1024]
    length = ramp_length(ramp, 32_000)
    assert not length.exact and length.updates == 1000, "as many as without growth"


def test_a_known_ramp_asks_no_measurement():
    assert laid().after_measurement(0, 1, 1e9) == (0, 0)


def test_samples_of_a_run_are_whole_first_batches():
    settings = Settings(start=64)
    assert ramp_samples(settings, Quantity(1.0, "epochs"), 1000) == 1024
    assert ramp_samples(settings, Quantity(640.0, "samples"), 1000) == 640
    with pytest.raises(RecipeError, match="epochs or samples"):
        ramp_samples(settings, Quantity(50.0, "updates"), 1000)


def test_a_ramp_is_told():
    ramp = Ramp(by="table", sizes=(64, 256), total_samples=9_000, marks=(3_000.0,))
    assert str(ramp) == "64 -> 256 (from 3,000 samples)"
