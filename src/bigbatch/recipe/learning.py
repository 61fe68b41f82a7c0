"""The recipe's sections that say what is learnt: model, task, optimizer, schedule, loss and their kin."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    field_validator,
    model_validator,
)

from bigbatch.recipe.adapters import AdapterSpec
from bigbatch.recipe.attention import AttentionSpec
from bigbatch.recipe.optimizers import OPTIMIZERS
from bigbatch.recipe.values import (
    AUTO,
    AutoRate,
    Beta,
    Count,
    CountOrZero,
    Evaluations,
    Fraction,
    NonNegativeNumber,
    Number,
    PositiveNumber,
    Section,
    Seed,
    Stretch,
    Text,
    built,
    kind_of,
    named,
    quantity,
    show,
)
from bigbatch.recipe.words import SCHEDULES
from bigbatch.units import Quantity


def _trainable(value: object) -> object:
    if value in ("all", "head"):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) and item for item in value):
        return value
    raise ValueError(f"found {show(value)}; expected all | head | a list of parameter name patterns")


def _class_weights(value: object) -> object:
    if value in ("none", "balanced"):
        return value
    if not isinstance(value, dict) or not value:
        raise ValueError(f"found {show(value)}; expected none | balanced | a mapping of labels to numbers")
    for label, weight in value.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
            raise ValueError(f"{label}: found {show(weight)} ({kind_of(weight)}); expected a number from 0")
    return {str(label): float(weight) for label, weight in value.items()}


def _two(value: object) -> object:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(
            f"found {show(value)} ({kind_of(value)}); expected two numbers, such as [0.9, 0.999]"
        )
    return tuple(value)


class ModelSpec(Section):
    """Which model is trained. In YAML a name alone is enough."""

    name: Text | None = None
    """Hub name (org/name) or folder in Hugging Face format; null: a live model that Python brings."""
    revision: Text | None = None
    """Branch, tag or commit on the hub."""
    tokenizer: Text | None = None
    """Hub name or folder of the tokenizer, or one for sequences that is made here: `letters`, `kmers:6`, `codons`;
    null: the model's own."""
    init: Literal["pretrained", "random"] = "pretrained"
    """`random` keeps the architecture and draws the weights from seed.model."""
    config: dict[str, object] = Field(default_factory=dict)
    """Settings of the model's configuration to overwrite, such as {pad_token_id: 0}."""
    trainable: Annotated[Literal["all", "head"] | list[str], PlainValidator(_trainable)] = "all"
    """`all`, `head`, or patterns of parameter names (`*` matches anything); the rest stays frozen."""
    adapter: AdapterSpec | None = None
    """Train low-rank adapters beside the model, which stays as it is; null: the model itself."""
    memory: CountOrZero | None = None
    """Of task clm: tokens in front of each piece or block, of the same document, that are read and not predicted, and
    without gradient; null: as the model's folder says, which is none unless it was trained here with some."""
    attention: AttentionSpec | None = None
    """Which tokens see which, by pattern; null: as the model's folder says, which is all of them unless it was trained
    here with fewer."""

    @model_validator(mode="after")
    def _one_thing_is_trained(self) -> ModelSpec:
        if self.adapter is not None and self.trainable != "all":
            raise ValueError(
                "adapter and trainable: adapters are trained with the head, and all else stays as it is; leave one out"
            )
        return self


class OptimizerSpec(Section):
    """How a gradient becomes an update. In YAML a name alone is enough."""

    name: Annotated[Text, named(*OPTIMIZERS)] = "adamw"
    """`adamw`, `sgd`, `lamb`, `lars`, `lion`, `muon`, `schedule_free`, or your own as an import reference."""
    lr: AutoRate = OPTIMIZERS["adamw"].lr
    """Peak learning rate, used as typed unless `base_batch` is given. auto: by the width of the model, of
    adapters 5e-4, then tested.
    Default: adamw 5e-5, lamb 6.25e-4, sgd 1e-2, lars 0.1, lion 1e-5, muon 5e-5, schedule_free 1e-4."""
    betas: Annotated[tuple[Beta, Beta], BeforeValidator(_two)] = (0.9, 0.999)
    """Decay of the first and second moment per update; of lion's direction and average ([0.9, 0.99]). Of muon: of what
    AdamW moves."""
    eps: PositiveNumber = 1e-8
    """Added to the denominator (lamb 1e-6; sgd, lars and lion have none of it)."""
    weight_decay: NonNegativeNumber = 0.01
    """Decoupled decay; none on biases and norms. In lamb and lars it is part of the trust ratio."""
    momentum: Beta = 0.9
    """Momentum of sgd, lars and muon (0.95)."""
    nesterov: bool = False
    """Nesterov's momentum for sgd, lars and muon (true)."""
    layer_decay: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Learning rate of a layer / that of the layer above it: the head has lr, the embeddings least. 1: all alike."""
    base_batch: Count | None = None
    """The batch, in the batch's own unit, that `lr` and `betas` were tuned for; needed by the rules below."""
    lr_rule: Literal["none", "linear", "sqrt", "gain"] = "none"
    """How lr is rescaled from `base_batch` to the batch. gain: AdaScale's, from `noise_scale`; between none and linear
    (sgd, lars), or none and sqrt (the others)."""
    noise_scale: PositiveNumber | None = None
    """Gradient noise scale in the batch's own unit, as measured or guessed; the rule `gain` needs it."""
    betas_rule: Literal["keep", "half_life", "sde"] = "keep"
    """How betas are rescaled: half_life: beta -> beta^k; sde: 1 - beta -> k (1 - beta)."""
    state: Literal["fp32", "bf16_sr", "8bit"] = "fp32"
    """What adamw keeps between updates. `bf16_sr`: weights and averages are bf16, rounded stochastically; `8bit`:
    averages in blocks of 8 bits (needs torchao). Both change the result."""
    args: dict[str, object] = Field(default_factory=dict)
    """Options of your own optimizer, or further ones of a built-in: muon's `scale` (moonlight, keller), `newton_schulz`
    (fp32, bf16), `steps` and `adamw_lr_ratio`, the `trust` of lars, …"""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_name(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        name = value.get("name", "adamw")
        kind = OPTIMIZERS.get(name) if isinstance(name, str) else None
        return dict(value) if kind is None else {"lr": kind.lr, **kind.defaults, **value}

    @model_validator(mode="after")
    def _fits_together(self) -> OptimizerSpec:
        if self.state != "fp32" and self.name != "adamw":
            raise ValueError(f"state: {self.state} is built for adamw; {self.name} keeps its state in fp32")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        for rule, value, idle in (("lr_rule", self.lr_rule, "none"), ("betas_rule", self.betas_rule, "keep")):
            if value != idle and self.base_batch is None:
                raise ValueError(
                    f"{rule}: {value} needs base_batch, the batch that lr and betas were tuned for"
                )
        if self.lr == AUTO and self.name != "adamw":
            kind = OPTIMIZERS.get(self.name)
            instead = f"such as optimizer.lr={kind.lr:g}, its default" if kind else "optimizer.lr=…"
            raise ValueError(
                f"lr: auto knows the rates of adamw, not those of {self.name}; write a number, {instead}"
            )
        if self.lr == AUTO and (self.base_batch is not None or self.lr_rule != "none"):
            raise ValueError(
                "lr: auto fits the rate to the batch by itself; leave base_batch and lr_rule out"
            )
        if self.lr_rule == "gain" and self.noise_scale is None:
            raise ValueError(
                "lr_rule: gain needs noise_scale, the gradient noise scale in the batch's own unit"
            )
        return self


class ScheduleSpec(Section):
    """How the learning rate moves over the run. In YAML a name alone is enough."""

    name: Annotated[Text, named(*SCHEDULES)] = "linear"
    """`linear`, `cosine`, `constant`, `wsd` (warm up, stay, decay), or your own as an import reference."""
    warmup: Stretch = quantity("6 %")
    """Rise from 0 to lr: `6 %` of the run, `200 updates`, `10000 samples`, or 0."""
    warmup_rule: Literal["keep", "legw"] = "keep"
    """legw: the warm-up was tuned for `optimizer.base_batch`; k times that batch takes k times as many samples."""
    decay: Stretch = quantity("20 %")
    """Length of the last part of wsd, in which the rate falls."""
    final_fraction: Fraction = 0.0
    """Learning rate at the end, as a fraction of lr."""
    args: dict[str, object] = Field(default_factory=dict)
    """Options of your own schedule."""

    @field_validator("warmup", "decay")
    @classmethod
    def _part_of_the_run(cls, value: Quantity) -> Quantity:
        if value.unit == "percent" and value.amount > 100:
            raise ValueError(f"found {value}; expected at most 100 % of the run")
        return value


LOSSES = (
    "cross_entropy", "bce", "mse", "dpo", "ipo", "simpo", "orpo", "margin_mse", "listwise_kl", "listwise",
    "pairwise", "pointwise",
)  # fmt: skip
"""Losses that a recipe names; which fit is for the task to say."""


class LossSpec(Section):
    """What is minimised. In YAML a name alone is enough."""

    name: Annotated[Text, named(*LOSSES)] = "cross_entropy"
    """`cross_entropy` (which stands for `bce` with several labels and `mse` with a number, and `dpo` with
    preferences), `ipo`, `simpo`, `orpo` (preferences), `margin_mse`, `listwise_kl` (match, by a teacher's scores),
    `listwise`, `pairwise`, `pointwise` (rank),
    or an import reference."""
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of the target's mass that is spread over all classes; `dpo`: of pairs that are held to be the wrong way
    round."""
    class_weights: Annotated[
        Literal["none", "balanced"] | dict[str, float], PlainValidator(_class_weights)
    ] = "none"
    """`balanced` weighs a class by samples / (classes x its samples); or {label: weight}, 1 for the others. Of several
    labels: the weight of rows that have the label (torch's pos_weight); balanced: rows without it / rows with it."""
    args: dict[str, object] = Field(default_factory=dict)
    """Options of your own loss; of dpo and ipo `length_normalised`, of simpo `gamma`, of orpo `nll`,
    of listwise_kl `teacher_temperature`."""


GRADIENT_OPTIONS: dict[str, dict[str, object]] = {
    "sam": {"rho": 0.05, "adaptive": False},
    "fgm": {"epsilon": 1.0, "share": 0.5},
}
"""Gradient -> its options and their defaults (Foret et al. 2021, Kwon et al. 2021, Miyato et al. 2017)."""


class GradientSpec(Section):
    """How one global batch becomes a gradient. In YAML a name alone is enough."""

    name: Annotated[
        Literal["plain", "cached", "sam", "fgm", "freelb", "rdrop"], built("plain", "cached", "sam", "fgm")
    ] = "plain"
    """`plain` sums over micro-batches. `sam`: the gradient where the loss nearby is worst; `fgm`: of the loss, and of
    that at tokens moved against each sample; both take twice the time. Of task match, whose loss needs all embeddings
    of a batch: `cached` (its default) computes them twice and keeps no activations; `plain` once and keeps all of the
    batch."""
    rho: PositiveNumber | None = None
    """`sam`: L2 distance of the move, over all trained weights (0.05; adaptive 0.5)."""
    adaptive: bool | None = None
    """`sam`: whether each weight moves in proportion to its size (false)."""
    epsilon: PositiveNumber | None = None
    """`fgm`: L2 distance by which a sample's embedded tokens move, all of them together (1)."""
    share: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """`fgm`: share of the loss at the moved tokens in the whole loss (0.5)."""
    args: Annotated[dict[str, object], built({})] = Field(default_factory=dict)
    """Options of a gradient rule of your own."""

    @model_validator(mode="before")
    @classmethod
    def _options_of_the_name(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        name = value.get("name", "plain")
        given = {key for own in GRADIENT_OPTIONS.values() for key in own if value.get(key) is not None}
        own = GRADIENT_OPTIONS.get(name, {}) if isinstance(name, str) else {}
        for key in sorted(given - own.keys()):
            names = " | ".join(other for other, options in GRADIENT_OPTIONS.items() if key in options)
            raise ValueError(f"{key}: an option of {names}, not of {name}: leave it out")
        defaults = {**own, "rho": 0.5} if value.get("adaptive") is True else own
        return {**value, **{key: default for key, default in defaults.items() if value.get(key) is None}}


class RegulariseSpec(Section):
    """Regularisers beside weight decay."""

    dropout: Fraction | None = None
    """Dropout of the whole model; null keeps the model's own."""


class BestSpec(Section):
    """Which weights are kept."""

    metric: Text | None = None
    """Metric that chooses them; null: the validation loss."""
    choose: Literal["paired", "figure"] = "paired"
    """`paired`: the final weights, unless an earlier evaluation was better by more than chance on the same rows
    (p < .05); `figure`: those with the best figure, however small the difference. Early stopping follows it."""


class EarlyStoppingSpec(Section):
    """Stop when validation no longer improves, or is good enough."""

    metric: Text | None = None
    """Metric to watch; null: `best`, or the validation loss."""
    patience: Evaluations = Quantity(3.0, "evaluations")
    """Evaluations without improvement that are tolerated."""
    min_delta: NonNegativeNumber = 0.0
    """Smallest change that counts as an improvement, in the metric's unit."""
    target: Number | None = None
    """Stop as soon as the metric is at least this (an error or a loss: at most); null: no such end."""


class SeedSpec(Section):
    """Where randomness starts. In YAML one number sets all three."""

    model: Seed = 0
    """Weights drawn anew: a new head, or a random model."""
    data: Seed = 0
    """Order of the samples and the validation share."""
    dropout: Seed = 0
    """Dropout masks, and the bits of stochastic rounding (optimizer.state: bf16_sr)."""
