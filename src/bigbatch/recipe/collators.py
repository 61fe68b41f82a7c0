"""Hugging Face's data collators: what each makes of rows, as options of a task. Types and fields are looked at; nothing
is called, and transformers is never imported.

Padding is not among them: it changes no number, and there is none here.
"""

from __future__ import annotations

from typing import Any

from bigbatch.errors import UsageError

_PADDING = {
    "default_data_collator", "torch_default_data_collator", "DefaultDataCollator", "DataCollatorWithPadding",
    "DataCollatorForTokenClassification", "DataCollatorWithFlattening", "DataCollatorForSeq2Seq",
}  # fmt: skip
"""Those that only put rows side by side, or one behind the other."""
_PLANNED = {
    "DataCollatorForMultipleChoice": "multiple choice is not built",
    "DataCollatorForPermutationLanguageModeling": "permutation language models are not built",
    "DataCollatorForSOP": "sentence order prediction is not built",
}
_WHERE = ("transformers.", "sentence_transformers.")


def task_options(collator: object, task: str) -> dict[str, object]:
    """The options of a task that a collator stands for.

    Args:
        collator: of the caller; None: the usual one.
        task: what the model's head is for.

    Raises:
        UsageError: a collator that does not go with the head, that is planned, or whose code nobody here knows.
    """
    name = _name(collator)
    if name == "DataCollatorForLanguageModeling":
        return _language_model(collator, task)
    if name in _PLANNED:
        raise UsageError(f"data_collator: {name}: {_PLANNED[name]}")
    ours = collator is None or name in _PADDING or name == "SentenceTransformerDataCollator"
    if not ours:
        raise UsageError(
            f"data_collator: {name} is code that this loop does not call: rows are tokenised once and cut into batches "
            "here. What a row becomes belongs into the dataset (dataset.map) or into a task of your own "
            "(bigbatch.train(…, task=…)); what is drawn anew for every batch is there for masks "
            "(DataCollatorForLanguageModeling)"
        )
    filled_with = getattr(collator, "label_pad_token_id", -100)
    if filled_with != -100:
        raise UsageError(
            f"data_collator: {name}: label_pad_token_id={filled_with} would be learnt from; leave it at -100"
        )
    if task == "mlm":
        raise UsageError(
            f"data_collator: {name or 'none'} masks nothing, and the model's head predicts masked tokens; use "
            "DataCollatorForLanguageModeling. Rows that were masked beforehand are not built"
        )
    return {}


def _name(collator: Any) -> str:
    """Of a type or function of the libraries', else the caller's own with its module."""
    if collator is None:
        return ""
    found = collator if hasattr(collator, "__qualname__") else type(collator)
    return (
        found.__qualname__
        if found.__module__.startswith(_WHERE)
        else f"{found.__module__}.{found.__qualname__}"
    )


def _language_model(collator: Any, task: str) -> dict[str, Any]:
    wanted = "mlm" if collator.mlm else "clm"
    if task != wanted:
        raise UsageError(
            f"data_collator: DataCollatorForLanguageModeling(mlm={collator.mlm}) is for "
            f"{'masked' if collator.mlm else 'causal'} language models, and the model's head is for task {task}"
        )
    if not collator.mlm:
        padding = getattr(collator.tokenizer, "pad_token_id", None)
        return {} if padding is None else {"not_predicted": [int(padding)]}
    return {
        "probability": float(collator.mlm_probability),
        "mask_share": float(getattr(collator, "mask_replace_prob", 0.8)),
        "random_share": float(getattr(collator, "random_replace_prob", 0.1)),
        "whole_word": bool(getattr(collator, "whole_word_mask", False)),
    }
