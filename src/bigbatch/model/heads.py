"""The heads that a task can ask for: how transformers calls them, and what follows from what they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bigbatch.samples import TOKENS

HeadKind = Literal[
    "sequence", "tokens", "span", "masked", "causal", "seq2seq", "hidden", "image", "boxes", "velocity"
]
"""What a head gives: outputs for a whole sample, outputs per token, whether an answer starts and ends at each token,
the token behind a mask, the next token, the next
token of a text that follows from another one; `hidden`: there is no head, and the outputs are the tokens' hidden
states; `image`: outputs for a whole image; `boxes`: for each of the boxes that it gives of an image;
`velocity`: which way the pixels of a noisy image have to move."""
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""As the configuration of a model with labels has it."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The head that a task needs."""

    kind: HeadKind
    outputs: int = 0
    """Columns of the outputs; of language models and `hidden` not asked."""
    id2label: Mapping[int, str] | None = None
    """Names of the classes in the order of the outputs; None where they have none."""
    problem_type: ProblemType | None = None
    """Written into the model's configuration."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """How a stream of a micro-batch reaches a model."""

    arguments: Mapping[str, str]
    """Column of the stream -> argument of the model's forward. Ids are padded with the pad token, others with 0."""
    mask: str | None = None
    """Argument that says which entries are no padding; None: every sample has as many entries, of which there is no
    padding, and they are given whole (pixels)."""


TOKENS_ALONE: Mapping[str, Input] = {
    TOKENS: Input(arguments={"ids": "input_ids", "segments": "token_type_ids"}, mask="attention_mask")
}
"""What a model of one text a sample is fed."""


@dataclass(frozen=True, kw_only=True)
class HeadClass:
    """What is known of a kind of head."""

    auto: str
    """Name of the class of transformers that loads it."""
    suffixes: tuple[str, ...] = ()
    """What the names of its model classes end in, the usual one first."""
    whole: bool = False
    """Whether it gives one output a sample; else one a token."""
    labelled: bool = False
    """Whether its outputs stand for labels; else for token ids, or for nothing."""
    defers_logits: bool = False
    """Whether the outputs are as wide as the vocabulary, so that the forward stops in front of the output layer and the
    task is given `model.logits.DeferredLogits`."""
    wants_tokenizer: bool = False
    """Whether the task asks which ids are special even where rows are token ids already."""
    inputs: Mapping[str, Input] = field(default_factory=lambda: TOKENS_ALONE)
    """Stream -> how it reaches the model: all that a forward gives it (`model.feeds`)."""
    pipeline: str
    """Hugging Face's name of what it is used for."""
    title: str
    """Of a model card."""

    @property
    def suffix(self) -> str:
        """The usual ending of its class names; empty where there is no head."""
        return self.suffixes[0] if self.suffixes else ""

    @property
    def reader(self) -> tuple[str, str]:
        """The class of transformers that makes rows ready for it, and what it is called in an example."""
        return ("AutoTokenizer", "tokenizer") if self.reads_text else ("AutoImageProcessor", "processor")

    @property
    def reads_text(self) -> bool:
        """Whether the model is given tokens, so that there must be a tokenizer, or rows of token ids."""
        return TOKENS in self.inputs


HEADS: Mapping[HeadKind, HeadClass] = {
    "sequence": HeadClass(
        auto="AutoModelForSequenceClassification",
        suffixes=("ForSequenceClassification",),
        whole=True,
        labelled=True,
        pipeline="text-classification",
        title="Text classifier",
    ),
    "tokens": HeadClass(
        auto="AutoModelForTokenClassification",
        suffixes=("ForTokenClassification",),
        labelled=True,
        pipeline="token-classification",
        title="Token classifier",
    ),
    "span": HeadClass(
        auto="AutoModelForQuestionAnswering",
        suffixes=("ForQuestionAnswering", "ForQuestionAnsweringSimple"),
        pipeline="question-answering",
        title="Answers found in texts",
    ),
    "masked": HeadClass(
        auto="AutoModelForMaskedLM",
        suffixes=("ForMaskedLM",),
        defers_logits=True,
        wants_tokenizer=True,
        pipeline="fill-mask",
        title="Masked language model",
    ),
    "causal": HeadClass(
        auto="AutoModelForCausalLM",
        suffixes=("ForCausalLM", "LMHeadModel"),
        defers_logits=True,
        pipeline="text-generation",
        title="Language model",
    ),
    "seq2seq": HeadClass(
        auto="AutoModelForSeq2SeqLM",
        suffixes=("ForConditionalGeneration", "MTModel"),
        inputs={
            "source": Input(arguments={"ids": "input_ids"}, mask="attention_mask"),
            TOKENS: Input(arguments={"ids": "decoder_input_ids"}, mask="decoder_attention_mask"),
        },
        defers_logits=True,
        wants_tokenizer=True,
        pipeline="text2text-generation",
        title="Sequence-to-sequence model",
    ),
    "image": HeadClass(
        auto="AutoModelForImageClassification",
        suffixes=("ForImageClassification",),
        whole=True,
        labelled=True,
        inputs={"image": Input(arguments={"pixels": "pixel_values"})},
        pipeline="image-classification",
        title="Image classifier",
    ),
    "boxes": HeadClass(
        auto="AutoModelForObjectDetection",
        suffixes=("ForObjectDetection",),
        labelled=True,
        inputs={"image": Input(arguments={"pixels": "pixel_values"})},
        pipeline="object-detection",
        title="Object detector",
    ),
    "velocity": HeadClass(
        auto="AutoModel",
        suffixes=("FlowDiT",),
        whole=True,
        labelled=True,
        inputs={"image": Input(arguments={"pixels": "pixel_values", "times": "times", "classes": "labels"})},
        pipeline="image-generation",
        title="Image generator",
    ),
    "hidden": HeadClass(auto="AutoModel", pipeline="sentence-similarity", title="Text embeddings"),
}


def usage_of(head: HeadClass, *, adapters: bool = False, labels: int = 0) -> list[str]:
    """How a model folder is opened: the end of a model card.

    Args:
        head: of the model.
        adapters: whether the folder holds adapters alone, which PEFT opens.
        labels: the number of classes.
    """
    auto, (reader, name) = head.auto, head.reader
    imports, given = f"from transformers import {auto}, {reader}", '"path/to/this/folder"'
    if adapters:
        known = (
            "SequenceClassification",
            "TokenClassification",
            "QuestionAnswering",
            "CausalLM",
            "Seq2SeqLM",
        )
        kind = auto.removeprefix("AutoModelFor") if auto.endswith(known) else ""
        kind = "FeatureExtraction" if auto == "AutoModel" else kind
        auto = f"AutoPeftModel{'For' if kind else ''}{kind}"
        imports = f"from peft import {auto}\nfrom transformers import {reader}"
        given += f", num_labels={labels}, ignore_mismatched_sizes=True" if head.labelled and labels else ""
    return [
        "## Use",
        "",
        "```python",
        *imports.split("\n"),
        "",
        f"model = {auto}.from_pretrained({given})",
        f'{name} = {reader}.from_pretrained("path/to/this/folder")',
        "```",
    ]


def head_named_by(name: str) -> HeadKind | None:
    """The head that a class of transformers has; None for one that no task here has.

    Example:
        >>> head_named_by("BertForTokenClassification"), head_named_by("T5ForConditionalGeneration")
        ('tokens', 'seq2seq')
    """
    return next((kind for kind, head in HEADS.items() if name.endswith(head.suffixes)), None)
