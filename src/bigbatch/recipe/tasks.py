"""The recipe's section `task`: what is learnt, and the options of each task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from bigbatch.recipe.values import (
    Count,
    Fraction,
    NonNegativeNumber,
    Number,
    PositiveNumber,
    Section,
    Text,
    built,
    is_reference,
    named,
    show,
)

PLANNED_TASKS: tuple[str, ...] = ()


def _label_names(value: object) -> object:
    # Labels are text inside bigbatch; 0 and 1 may be written without quotes.
    if isinstance(value, list):
        return [str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in value]
    return value


def _distinct(value: list[str] | None) -> list[str] | None:
    if value is not None and (len(set(value)) < len(value) or len(value) < 1):
        raise ValueError(f"found {show(value)}; expected distinct names, at least one")
    return value


def _falling(value: list[int] | None) -> list[int] | None:
    if value is not None and (not value or sorted(set(value), reverse=True) != value):
        raise ValueError(f"found {show(value)}; expected distinct numbers, the largest first")
    return value


Labels = Annotated[list[str] | None, BeforeValidator(_label_names), AfterValidator(_distinct)]


class ClassifyOptions(Section):
    """The options of `task: classify`."""

    kind: Literal["single", "multi", "regression"] = "single"
    """`classify`: one label a sample, several labels a sample, or a number."""
    labels: Labels = None
    """`classify` and `tag`: label names in the order of the model's outputs; null: sorted, as found in the data."""
    reverse_complement: Fraction | None = None
    """`classify` and `mlm`: share of the samples that training reads as the other strand of a sequence of nucleotides,
    drawn anew each epoch by (seed.data, epoch, sample); null: none."""


class TagOptions(Section):
    """The options of `task: tag`."""

    labels: Labels = None
    """As those of classify."""
    scheme: Literal["auto", "iob1", "iob2", "bioes", "bilou", "io", "none"] = "auto"
    """`tag`: how tags mark entities (iob2: B-PER, I-PER, O; io: PER, O), which are then what is scored; none: they do
    not; auto: as they look."""
    pieces: Literal["first", "all"] = "first"
    """`tag`: which pieces of a word carry its tag in training; a word is scored by its first piece either way."""


class MlmOptions(Section):
    """The options of `task: mlm`."""

    probability: Annotated[Number, Field(gt=0, le=1)] = 0.15
    """`mlm`: share of the tokens (or words) that is masked and predicted, drawn anew each epoch."""
    whole_word: bool = False
    """`mlm`: mask all pieces of a word together."""
    mask_share: Fraction = 0.8
    """`mlm`: of the masked tokens, the share shown as the mask token."""
    random_share: Fraction = 0.1
    """`mlm`: of the masked tokens, the share shown as a random token; the rest are shown as they are."""
    blocks: Literal["documents", "fixed"] = "documents"
    """`mlm`: `documents`: each row by itself, cut at data.max_length; `fixed`: all rows joined and cut into blocks of
    data.max_length, each between the tokenizer's marks."""
    mask_id: Annotated[int | None, Field(ge=0)] = None
    """`mlm`: id of the mask token, for rows of token ids without a tokenizer; null: the tokenizer's."""
    reverse_complement: Fraction | None = None
    """As that of classify."""

    @model_validator(mode="after")
    def _shares(self) -> MlmOptions:
        if self.mask_share + self.random_share > 1 + 1e-12:
            shares = f"{self.mask_share:g} + {self.random_share:g}"
            raise ValueError(f"mask_share and random_share: found {shares}; expected at most 1 together")
        return self


class ClmOptions(Section):
    """The options of `task: clm`."""

    blocks: Literal["documents", "fixed"] = "documents"
    """`clm`: `documents`: each row by itself, cut into pieces of data.max_length; `fixed`: all rows joined and cut into
    blocks of data.max_length."""
    not_predicted: list[Annotated[int, Field(ge=0)]] | None = None
    """`clm`: token ids that are read and never predicted, such as an end mark that is the padding, too; null: none."""


class Seq2SeqOptions(Section):
    """The options of `task: seq2seq`."""

    source_prefix: str = ""
    """`seq2seq`: put in front of every source, such as T5's `translate English to German: `."""
    target_max_length: Count | None = None
    """`seq2seq`: tokens kept of a target, and written of a text; null: data.max_length, as of a source."""
    beams: Count = 1
    """`seq2seq`: texts that are pursued at a time when one is written; 1: always the likeliest token."""


class FalseNegatives(Section):
    """Which candidates of a batch are likely to be right, too, and so no negatives."""

    margin: Number = 0.0
    """A candidate counts as right if its score is above that of the query's own document, less this; below 0: if it is
    above by as much."""
    relative: bool = False
    """Whether the margin is a share of the document's score."""
    guide: str | None = None
    """Folder of a model of embeddings (or of a run) whose scores decide; null: the model's own, as it learns."""


class MatchOptions(Section):
    """The options of `task: match`."""

    temperature: PositiveNumber = 0.05
    """`match`: scores are divided by it."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """`match`: cosine: embeddings of length 1; dot: as they are."""
    symmetric: bool = False
    """`match`: whether documents look for their queries too; the loss is the mean of both."""
    pooling: Literal["mean", "first", "last"] | None = None
    """`match`: which tokens' states make the embedding; null: as the model's folder says, else the last of causal
    models and the mean of others."""
    query_prefix: str = ""
    """`match`: put in front of every query, such as `query: `."""
    document_prefix: str = ""
    """`match`: put in front of every document and negative."""
    dimensions: Annotated[list[Count] | None, AfterValidator(_falling)] = None
    """`match`: first numbers of an embedding that should be enough by themselves, `[384, 128, 64]`: each has a loss of
    its own, and they are added; null: the whole embedding alone."""
    dimension_weights: list[PositiveNumber] | None = None
    """`match`: of the losses of `dimensions`; null: 1 each."""
    false_negatives: FalseNegatives | None = None
    """`match`: `{margin: 0.1}` leaves out candidates of the batch that the model itself scores almost as high as the
    query's own document, `{guide: FOLDER}` those that another model does; null: only those that the data call right."""
    towers: Annotated[Literal[1, 2], built(1)] = 1
    """`match`: 1: queries and documents share the model."""


class SpanOptions(Section):
    """The options of `task: span`."""

    stride: Annotated[int | None, Field(ge=0)] = None
    """`span`: tokens of the text that neighbouring windows share; null: 128, or half of what a window has for the
    text if that is less."""
    max_query_length: Count | None = None
    """`span`: tokens kept of a question; null: 64, or a quarter of a window if that is less."""
    max_answer_tokens: Count = 30
    """`span`: tokens of an answer that is predicted, at most."""
    null_threshold: Number | None = None
    """`span`: no answer is predicted where its score is larger than that of the best answer by more than this; null:
    always an answer."""
    n_best: Count = 1
    """`span`: answers that a prediction names; from 2 on as `alternatives`."""
    language: Literal["auto", "en", "zh"] = "auto"
    """`span`: how answers are compared: as SQuAD's script does (en), or as that of CMRC 2018 (zh); auto: by the
    answers."""


class PreferOptions(Section):
    """The options of `task: prefer`."""

    beta: PositiveNumber | None = None
    """`prefer`: how strongly the model is held to where it starts from (dpo, ipo: 0.1); what margins are multiplied by
    (simpo: 2); weight of the odds (orpo: 0.1). null: as the loss has it."""
    template: Text | None = None
    """`prefer`, `reward`: how messages are written: `chatml`, or a file beside the recipe; null: the tokenizer's own
    chat template."""


class ChatOptions(Section):
    """The options of `task: chat`."""

    template: Text | None = None
    """`chat`: how conversations are written: `chatml`, or a file (`ours.jinja`) beside the recipe; null: the
    tokenizer's own chat template."""
    turns: Literal["all", "last"] = "all"
    """`chat`: which of the assistant's turns are learnt; those of weight 0 never are."""
    too_long: Literal["skip", "cut", "refuse"] = "skip"
    """`chat`: what becomes of a conversation whose last question and answer alone are longer than data.max_length: it
    is counted and nothing is learnt of it; its answer loses its end; it is an error."""
    special: Literal["text", "tokens", "refuse"] = "text"
    """`chat`: what special tokens are that stand in the text of a turn (`<|im_end|>`): the characters that they are, or
    what they mean to the model; or an error."""


class RewardOptions(Section):
    """The options of `task: reward`."""

    centring: NonNegativeNumber = 0.0
    """`reward`: weight of the squared sum of a pair's rewards, which keeps them around 0 (0.01, say); 0: none."""
    template: Text | None = None
    """As of `prefer`."""


class BoxAugment(Section):
    """How images are changed while training, their boxes with them; never in evaluation and prediction."""

    flip: Fraction = 0.0
    """Probability of mirroring left and right."""
    crop: Annotated[int, Field(ge=0, le=1024)] = 0
    """Pixels by which an image is shifted at most, in each direction; black comes in from the edge."""
    erase: Fraction = 0.0
    """Probability of erasing a rectangle of 2 to 33 % of the image: its pixels become the mean."""

    @property
    def changes(self) -> bool:
        """Whether anything is changed."""
        return bool(self.flip or self.crop or self.erase)


class Augment(BoxAugment):
    """How images are changed while training; never in evaluation and prediction."""

    randaugment: Annotated[Number, Field(ge=0, le=30)] = 0.0
    """Strength of RandAugment (9, say): some of 14 changes of colours and shape, drawn anew for each image; 0: none."""
    operations: Annotated[int, Field(ge=1, le=16)] = 2
    """How many of them, one behind the other."""
    mixup: Annotated[Number, Field(ge=0, le=2)] = 0.0
    """Alpha of mixup (0.2, say): an image is mixed with another one, in a share of Beta(alpha, alpha), and so are their
    classes; 0: not."""
    cutmix: Annotated[Number, Field(ge=0, le=2)] = 0.0
    """Alpha of CutMix (1, say): a rectangle of another image is pasted in, of a share of Beta(alpha, alpha); beside
    mixup each image gets one of both; 0: not."""

    @property
    def mixes(self) -> bool:
        """Whether images are made of two."""
        return bool(self.mixup or self.cutmix)

    @property
    def changes(self) -> bool:
        """Whether anything is changed."""
        return super().changes or self.mixes or self.randaugment > 0


class ImageOptions(Section):
    """The options of `task: image`."""

    labels: Labels = None
    """As those of classify."""
    augment: Augment | None = None
    """`image`: how images are changed while training, `{flip: 0.5, crop: 4, erase: 0.25}`; each epoch draws anew, by
    (seed.data, epoch, sample); null: not at all."""


class ContactOptions(Section):
    """The options of `task: contact`."""

    distance: Annotated[PositiveNumber, Field(lt=1000)] = 8.0
    """`contact`: two letters touch that are closer than this, in Å."""
    separation: Annotated[int, Field(ge=1)] = 6
    """`contact`: letters that the partners of a pair are apart, at least; 4 for RNA."""
    channels: Annotated[int, Field(ge=1, le=4096)] = 32
    """`contact`: complex numbers that the model gives of a letter, on each side of a pair."""


class RecommendOptions(Section):
    """The options of `task: recommend`."""

    stride: Count | None = None
    """`recommend`: items by which the windows of a history longer than data.max_length are apart; null: half of it."""
    repeats: bool = False
    """`recommend`: whether an item that a user had may be recommended to them again."""
    top: Count = 10
    """`recommend`: items of a prediction."""


class BoxWeights(Section):
    """What the terms of a loss of boxes weigh, in the matching and in the loss alike."""

    label: PositiveNumber = 1.0
    """The class of a box."""
    box: NonNegativeNumber = 5.0
    """Its coordinates: sum of absolute differences, as fractions of the image."""
    giou: NonNegativeNumber = 2.0
    """Its overlap: 1 - generalised intersection over union."""


class DetectOptions(Section):
    """The options of `task: detect`."""

    labels: Labels = None
    """`detect`: names of the classes in the order of the model's outputs; null: in the order of the data's categories,
    else sorted."""
    no_object: Annotated[Number, Field(gt=0, le=1)] = 0.1
    """`detect`: weight, in the class term, of a box of the model that stands for nothing."""
    weights: BoxWeights | None = None
    """`detect`: what the terms weigh, in the matching and in the loss; null: `{label: 1, box: 5, giou: 2}`."""
    augment: BoxAugment | None = None
    """`detect`: how images are changed while training, as of `image`; boxes are moved with them, and one of which less
    than a quarter stays on the image is left out."""
    outside: Literal["refuse", "cut"] = "refuse"
    """`detect`: boxes that reach out of their image, or have no area, are errors; or are cut to the image, and left out
    where nothing of them is on it."""
    threshold: Fraction = 0.3
    """`detect`: boxes of which the model is less sure than this are not predicted; figures count all."""


class DiffuseOptions(Section):
    """The options of `task: diffuse`."""

    labels: Labels = None
    """As those of classify."""
    hide_class: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    """`diffuse`: share of the images that training shows without their class, drawn anew each epoch by (seed.data,
    epoch, sample), so that drawing can be guided towards one."""
    times: Literal["logit_normal", "uniform"] = "logit_normal"
    """`diffuse`: how often each time between noise and image is seen: those in the middle most, or all alike."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 30
    """`diffuse`: steps from noise to an image when images are drawn."""
    guidance: Annotated[Number, Field(ge=0, lt=1000)] = 2.0
    """`diffuse`: how far drawing goes from what all classes have in common towards the class; 1: as learnt."""


class RankOptions(Section):
    """Of `task: rank`, which has none: `loss` says what is minimised."""


TASK_OPTIONS: dict[str, type[Section]] = {
    "classify": ClassifyOptions, "tag": TagOptions, "mlm": MlmOptions, "clm": ClmOptions, "match": MatchOptions,
    "seq2seq": Seq2SeqOptions, "prefer": PreferOptions, "reward": RewardOptions, "chat": ChatOptions,
    "span": SpanOptions, "image": ImageOptions, "detect": DetectOptions,
    "contact": ContactOptions,
    "recommend": RecommendOptions, "diffuse": DiffuseOptions, "rank": RankOptions,
}  # fmt: skip
"""Task -> the section of its options, which stand beside `name`."""
TASKS = tuple(TASK_OPTIONS)
MAKES_ITS_MODEL = ("recommend",)
"""Tasks whose model is made of the data where none is named."""


class TaskSpec(Section):
    """What is learnt from the data. In YAML a name alone is enough; options stand next to `name`."""

    name: Annotated[Text, named(*TASKS, planned=PLANNED_TASKS)] = "classify"
    """`classify`, `tag` (words), `mlm` (masked tokens), `clm` (next token), `match` (pairs), `seq2seq` (a text from
    another), `prefer` (the better of two answers), `reward` (a number for an answer), `chat` (conversations),
    `span` (answers found in texts),
    `image` (classes of images), `detect` (things on images), `contact` (letters that touch when a sequence is folded),
    `diffuse` (images drawn), `recommend` (the next item of a user), `rank` (candidates of a query),
    or your own as an import reference."""
    args: dict[str, object] = Field(default_factory=dict)
    """The task's own options, such as `kind` and `labels` of classify; they stand beside `name`."""

    @model_validator(mode="before")
    @classmethod
    def _options_beside_name(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        options = {key: item for key, item in value.items() if key not in ("name", "args")}
        args = value.get("args") or {}
        return {
            "name": value.get("name", "classify"),
            "args": {**args, **options} if isinstance(args, dict) else args,
        }

    @field_validator("args", mode="after")
    @classmethod
    def _checked(cls, value: dict[str, object], info: ValidationInfo) -> dict[str, object]:
        options = TASK_OPTIONS.get(info.data.get("name", ""))
        return value if options is None else options.model_validate(value).model_dump(exclude_none=True)

    @model_serializer
    def _flat(self) -> dict[str, object]:
        if is_reference(self.name):
            return {"name": self.name, "args": self.args}
        return {"name": self.name, **self.args}
