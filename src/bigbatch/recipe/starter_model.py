"""Which model the first recipe names, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bigbatch.errors import UsageError
from bigbatch.recipe.findings import Findings
from bigbatch.recipe.model_facts import ModelChoice, ModelFacts, ModelKind, listed_models

_USUAL = {"en": "distilbert-base-uncased"}
_USUAL_ELSE = "distilbert-base-multilingual-cased"
_MATCHING = {"en": "sentence-transformers/all-MiniLM-L6-v2"}
_MATCHING_ELSE = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
_WRITING = "google/mt5-small"
_ANSWERING = "HuggingFaceTB/SmolLM2-135M-Instruct"
_FOLDING = "facebook/esm2_t6_8M_UR50D"
_KINDS: dict[str, ModelKind] = {"seq2seq": "encoder-decoder", "prefer": "causal", "chat": "causal"}
"""The kind of model that a task takes, where it is not an encoder."""


def usual_model(language: str | None, task: str) -> str:
    """The hub's model for a language and a task: of texts to match one whose states are embeddings already, of texts to
    write one that writes, of preferences and conversations one that answers.
    """
    if task in ("prefer", "chat"):
        return _ANSWERING
    if task == "seq2seq":
        return _WRITING
    if task == "contact":
        return _FOLDING
    if task == "match":
        return _MATCHING.get(language or "", _MATCHING_ELSE)
    return _USUAL.get(language or "", _USUAL_ELSE)


_OF_NO_TEXT: dict[str, tuple[str, str]] = {
    "image": (
        "google/vit-base-patch16-224",
        "the usual model of images; any image classifier of transformers that reads patches",
    ),
    "boxes": ("hustvl/yolos-tiny", "a small detector; any of transformers that gives a set of boxes"),
    "structure": (
        _FOLDING,
        "a small model of proteins; one of your own from random weights takes tokenizer: letters",
    ),
}
"""Role -> the hub's model for it, where a model of texts is none, and why."""


def model_of_no_text(role: str, answers: Callable[[], bool], why_not: Callable[[], str]) -> ModelChoice:
    """The hub's model for images, for things on them, or for sequences that fold.

    Args:
        role: a column's, `image`, `boxes` or `structure`.
        answers: whether the hub does.
        why_not: in words.
    """
    name, why = _OF_NO_TEXT[role]
    if answers():
        return ModelChoice(name=name, why=why)
    remedy = f"name a folder with --model FOLDER, or fetch one where there is a network: hf download {name}"
    return ModelChoice(name=name, why=why, said=(f"warning: {why_not()}. Remedy: {remedy}",))


def language_words(language: str | None) -> str:
    """Why a model was picked, where nothing else said it."""
    why = f"the text looks like {language}" if language else "the language is not known"
    return f"{why}; any hub name or folder in Hugging Face format"


def chosen_model(
    language: str | None,
    *,
    task: str,
    nearby: Sequence[ModelFacts],
    answers: Callable[[], bool],
    why_not: Callable[[], str],
) -> ModelChoice:
    """The usual model where it can be had, else the one on this machine that fits best.

    Args:
        language: of the texts.
        task: that the data are for: `match`, `seq2seq`, `prefer`, `chat`, or another.
        nearby: models on this machine.
        answers: whether the hub does; only asked where it matters, since that may take seconds.
        why_not: in words.
    """
    usual = usual_model(language, task)
    here = next((each for each in nearby if each.name == usual), None)
    if here is not None:
        return ModelChoice(name=usual, known=here, why=f"{language_words(language)}; it is in {here.origin}")
    if answers():
        return ModelChoice(name=usual, why=language_words(language))
    silent = why_not()
    wanted = _KINDS.get(task, "masked")
    fitting = [each for each in nearby if each.kind == wanted and each.weights == "pretrained"]
    fitting.sort(key=lambda each: (each.labels_of is not None, each.multilingual != (language != "en")))
    found = (
        f"found here: {listed_models(nearby)}"
        if nearby
        else "no model was found in its cache or in installed packages"
    )
    if not fitting:
        remedy = (
            "name a folder with --model FOLDER, or fetch one where there is a network: hf download " + usual
        )
        return ModelChoice(
            name=usual,
            why=f"{silent}: {remedy}",
            said=(f"warning: {silent}, and {usual} is not on this machine; {found}. Remedy: {remedy}",),
        )
    best = fitting[0]
    others = [each for each in nearby if each is not best]
    also = f"; also here: {listed_models(others)}" if others else ""
    knows = (
        "" if language in (None, "en") or best.multilingual else f"; whether it knows {language} is not known"
    )
    return ModelChoice(
        name=best.name,
        known=best,
        why=f"in {best.origin}; {silent}, so the usual {usual} is not to be had{knows}",
        said=(f"model: {listed_models([best])}, since {silent}{also}; another one: --model NAME",),
    )


def asked_model(name: str, known: ModelFacts | None, why_not: str) -> ModelChoice:
    """The model that the user names.

    Args:
        name: hub name or folder.
        known: what is known about it.
        why_not: why nothing is, in words.
    """
    if known is not None:
        return ModelChoice(name=name, known=known)
    said = (
        f"warning: which kind of model {name} is could not be seen ({why_not}): the task is chosen without it"
    )
    return ModelChoice(name=name, said=(said,))


def check_trainable(known: ModelFacts | None, task: str) -> None:
    """Refuse a model that the task does not train.

    Raises:
        UsageError: an encoder-decoder, where nothing is to be written; another than a causal one for preferences and
            conversations.
    """
    if known is not None and (task, known.kind) == ("prefer", "masked"):  # it learns rewards instead
        return
    if known is not None and task in ("prefer", "chat") and known.kind not in ("causal", "unknown"):
        what = {"prefer": "chosen and rejected answers", "chat": "conversations"}[task]
        raise UsageError(
            f"--model {known.name}: {what} (task {task}) take a causal model, such as {_ANSWERING}"
        )
    if known is not None and known.kind == "encoder-decoder" and task != "seq2seq":
        raise UsageError(
            f"--model {known.name}: an encoder-decoder writes one text from another (task seq2seq), and these data "
            "have no two; name an encoder such as BERT (classify, tag, match, mlm) or a decoder such as GPT-2 "
            "(classify, match, clm)"
        )


def model_words(found: Findings) -> list[str]:
    """What a person should know about the model that the recipe names."""
    known = found.known
    if known is None:
        return []
    said = {"none": "no weights in the folder: drawn anew", "random": "its weights look untrained"}
    kinds = {"causal": "a causal model", "masked": "an encoder"}
    words = [kinds[known.kind]] if known.kind in kinds and not found.model_why else []
    words += [said[known.weights]] if known.weights in said else []
    return [", ".join([*words, *_head_words(found, known)])] if words or known.labels else []


def _head_words(found: Findings, known: ModelFacts) -> list[str]:
    """What becomes of a head of labels."""
    if known.labels_of is None:
        return []
    head = f"ends in a head of {len(known.labels)} labels ({_names(known.labels)})"
    wanted = {"single": "texts", "multi": "texts", "regression": "texts", "tags": "words"}[found.kind]
    if found.label is None or wanted != known.labels_of:
        return [f"{head}, which this task leaves out"]
    own = found.class_counts
    named = any(label != f"LABEL_{index}" for index, label in enumerate(known.labels))
    same = set(own) == set(known.labels) if named else len(own) == len(known.labels)
    if found.kind == "regression":
        same = len(known.labels) == 1
    return [f"{head}, {'which is kept' if same else f'in whose place comes a new one of {len(own) or 1}'}"]


def _names(labels: Sequence[str]) -> str:
    return ", ".join(labels[:4]) + (", …" if len(labels) > 4 else "")
