"""Load a model with the task's head: safetensors only, no code of others, a new head seeded.

A head with labels is kept when they are the ones asked for. Names like LABEL_0 carry no meaning, so with them the
count decides. Heads of language models have no labels and are kept. A model of another kind of head gives its body.
Everything that was decided comes back as notes for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from bigbatch.errors import ModelError
from bigbatch.model.adapter_folder import AdapterFolder, is_adapter_folder, put_back, read_adapter
from bigbatch.model.adapters import layers_of, linear_names, put_in
from bigbatch.model.adjust import (
    keep_every_block,
    override_config,
    set_dropout,
    set_dropout_fields,
    set_trainable,
)
from bigbatch.model.anatomy import anatomy, evaluating, headed_model, trial_ids
from bigbatch.model.attention import IMPLEMENTATION, register
from bigbatch.model.checks import check_model, check_stacks, pad_id
from bigbatch.model.encoder import Encoder, bare
from bigbatch.model.folder import CONFIG, View
from bigbatch.model.heads import HEADS, HeadKind, ProblemType
from bigbatch.model.masters import full_precision, tie
from bigbatch.model.memory import set_memory
from bigbatch.model.names import clean_name
from bigbatch.model.narrowed import narrow
from bigbatch.model.new_head import output_layers, renew_outputs, seeded
from bigbatch.model.quantised import Format, kept_in, quantise
from bigbatch.model.size import bounded, check_fits, check_numbers, fits_memory, stored_in
from bigbatch.model.source import explained, load_config, opened, quiet
from bigbatch.model.unseen import follows_interface
from bigbatch.model.vision import held_statistics, hold_statistics, queries_of
from bigbatch.private import keep_compiled_code_private
from bigbatch.recipe.learning import ModelSpec

__all__ = ["LoadedModel", "check_model", "known_labels", "load_model", "pad_id"]

_NO_NAME = "model.name: none given; expected a folder or a hub name like org/name"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model with its head, and what was decided on the way."""

    module: nn.Module
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """The head that the task needs."""

    kind: HeadKind
    outputs: int
    id2label: Mapping[int, str] | None
    problem_type: ProblemType | None
    seed: int

    @property
    def labelled(self) -> bool:
        """Whether its outputs stand for labels; else for token ids."""
        return HEADS[self.kind].labelled


def known_labels(spec: ModelSpec | None, module: nn.Module | None = None) -> tuple[str, ...] | None:
    """Label names of a live model or of `spec.name`, in its head's order; None when they mean nothing.

    Raises:
        ModelError: no model is named, or it cannot be opened.
    """
    if module is not None:
        return _meaningful(headed_model(module).config)
    if spec is None or spec.name is None:
        raise ModelError(_NO_NAME)
    if is_adapter_folder(spec.name) and not (Path(spec.name) / CONFIG).is_file():
        found = read_adapter(spec.name)
        return known_labels(ModelSpec(name=found.base, revision=found.revision))
    with opened(spec.name, spec.revision, weights=False) as view:
        return _meaningful(load_config(view))


def load_model(
    spec: ModelSpec,
    *,
    kind: HeadKind = "sequence",
    outputs: int = 0,
    id2label: Mapping[int, str] | None = None,
    problem_type: ProblemType | None = None,
    seed: int,
    dropout: float | None,
    module: nn.Module | None = None,
    base: ModelSpec | None = None,
) -> LoadedModel:
    """The model that the recipe asks for with a head of this kind, fp32, on the CPU (a live one stays where it is).

    Args:
        spec: `recipe.model`: name, revision, init, config, trainable.
        kind: what the head gives: `sequence` and `tokens` (outputs with labels), `masked`, `causal` and
            `seq2seq` (language models, whose outputs are the vocabulary; tied weights stay tied), `hidden` (no head).
        outputs: columns of the logits; of language models not asked.
        id2label: names of the classes in the order of the logits; None for regression and language models.
        problem_type: of a `sequence` head, written into the configuration as transformers names it.
        seed: of new weights; the global generators are left as they were.
        dropout: every dropout probability; None keeps the model's own.
        module: a live model, used as it is but for its number format; frozen parameters stay frozen.
        base: of a folder of adapters, where another place is known for it than the folder names.

    Raises:
        ModelError: what is wrong and what helps.
    """
    wanted = _Wanted(kind=kind, outputs=outputs, id2label=id2label, problem_type=problem_type, seed=seed)
    unkept = keep_compiled_code_private()  # some models of transformers compile parts of themselves
    if module is None:
        module, notes = _from_source(spec, wanted, dropout, base)
    else:
        check_stacks(getattr(module, "config", None), type(module).__name__, two=kind == "seq2seq")
        module = _live_encoder(module) if kind == "hidden" else module
        hold_statistics(bare(module))
        notes = [*full_precision(module), *_adopt(module, spec, wanted, dropout)]
    _check_head(module, wanted)
    notes += filter(None, [held_statistics(module)])
    if set_memory(module, spec.memory) and follows_interface(headed_model(module)):
        register()
        cast(PreTrainedModel, headed_model(module)).set_attn_implementation(IMPLEMENTATION)
    notes += narrow(module, spec.attention, spec.name or type(module).__name__)
    set_trainable(module, spec.trainable)
    return LoadedModel(module, (*notes, unkept) if unkept else tuple(notes))


# ---------------------------------------------------------------- from a folder or the hub


def _from_source(
    spec: ModelSpec,
    wanted: _Wanted,
    dropout: float | None,
    base: ModelSpec | None = None,
    config: PreTrainedConfig | None = None,
) -> tuple[nn.Module, list[str]]:
    """The model and notes; `config`: in place of its own."""
    if spec.name is None:
        raise ModelError(_NO_NAME)
    if is_adapter_folder(spec.name):
        return _from_adapters(read_adapter(spec.name), spec, wanted, dropout, base)
    with opened(spec.name, spec.revision, weights=spec.init == "pretrained") as view:
        module, notes, new = _from_view(view, spec, wanted, dropout, config)
    if spec.adapter is not None:
        layers = layers_of(spec.adapter, anatomy(module))
        if spec.adapter.base != "fp32":
            notes.append(_narrowed(module, spec.adapter.base))
        notes.append(put_in(module, layers, seed=wanted.seed, new=new))
    return module, notes


def _narrowed(module: nn.Module, to: Format) -> str:
    """Keep the linear layers of the blocks in fewer bits, whichever of them get adapters."""
    return quantise(bare(module), linear_names(anatomy(module)).blocks, to)


def _from_adapters(
    found: AdapterFolder, spec: ModelSpec, wanted: _Wanted, dropout: float | None, base: ModelSpec | None
) -> tuple[nn.Module, list[str]]:
    if spec.adapter is not None or spec.init != "pretrained":
        raise ModelError(
            f"{found.folder} holds adapters, which go on being trained as they are: leave model.adapter and model.init "
            "out, or merge them first (bigbatch export RUN --to transformers)"
        )
    named = base or ModelSpec(name=found.base, revision=found.revision)
    change, kept, config = "", None, None
    if (found.folder / CONFIG).is_file():
        with opened(str(found.folder), None, weights=False) as view:
            config = load_config(view)  # what the adapters were trained with: patterns, memory, model.config
        change, kept = _head_change(config, wanted), kept_in(config, str(found.folder / CONFIG))
    asked = named.model_copy(update={"config": spec.config})
    module, notes = _from_source(asked, wanted, dropout, config=config)
    if kept is not None:
        notes.append(_narrowed(module, kept))
    leave = output_layers(bare(module)) if change else ()
    said = put_back(module, found, seed=wanted.seed, leave=leave)
    told = [note for note in notes if "new head" not in note]
    return module, [*told, said, *([f"{change}: new head, seed {wanted.seed}"] if change else [])]


def _from_view(
    view: View, spec: ModelSpec, wanted: _Wanted, dropout: float | None, given: PreTrainedConfig | None
) -> tuple[nn.Module, list[str], set[str]]:
    """The model, notes, and the names of parameters that its files do not have."""
    notes, where = list(view.notes), str(view.source / CONFIG)
    config = load_config(view) if given is None else given
    override_config(config, spec.config)
    check_stacks(config, where, two=wanted.kind == "seq2seq")
    check_numbers(spec.config, "model.config")
    if dropout is not None and not set_dropout_fields(config, dropout):
        notes.append(f"{config.model_type} has no dropout to set")
    notes += filter(None, [keep_every_block(config)])
    change = _head_change(config, wanted)
    _describe_head(config, wanted)
    auto = getattr(transformers, HEADS[wanted.kind].auto)
    with explained(view.name), quiet(), seeded(wanted.seed):
        if not view.weights:

            def build() -> nn.Module:
                return auto.from_config(config, trust_remote_code=False)

            with torch.random.fork_rng(devices=[]):
                check_fits(build, where)
            module = _headed(build(), wanted)
            return module.float().eval(), [*notes, f"random weights, seed {wanted.seed}"], set()
        stored = stored_in(view.weights)
        fits_memory(stored.numbers, str(view.source))
        with bounded(where, stored):
            module, info = auto.from_pretrained(
                view.path,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    module.config._name_or_path = module.name_or_path = view.name
    module = _headed(module, wanted)
    new = {str(key) for key in info["missing_keys"]} | {str(key[0]) for key in info["mismatched_keys"]}
    if wanted.kind == "hidden":  # a pooler that was not there is not missed
        new &= {clean_name(name) for name, _ in module.named_parameters()}
    notes += _explain_new(module, new, info, change, wanted)
    return module.eval(), notes, new


def _headed(module: nn.Module, wanted: _Wanted) -> nn.Module:
    """As it is (but `hold_statistics`), or a base model as an encoder without the pooler that nobody reads."""
    if wanted.kind != "hidden":
        return hold_statistics(module)
    if "add_pooling_layer" in signature(type(module).__init__).parameters:
        module.pooler = None  # type: ignore[assignment]
    return Encoder(module)  # type: ignore[arg-type]


def _explain_new(module: nn.Module, new: set[str], info: Any, change: str, wanted: _Wanted) -> list[str]:
    """Say why tensors are new; only the head may be, and a head of other labels is made anew."""
    parts = anatomy(module)
    owned = {id(item) for part in parts.head for item in part.parameters()}
    # A language model's output layer often is its embedding, which has to be there.
    owned -= {id(item) for part in parts.embeddings for item in part.parameters()}
    if queries_of(parts.outer):  # RT-DETR has outputs behind each of its layers
        heads = map(parts.outer.get_submodule, output_layers(parts.outer))
        owned |= {id(item) for part in heads for item in part.parameters()}
    body = sorted(
        name for name, item in module.named_parameters() if clean_name(name) in new and id(item) not in owned
    )
    if body:
        raise ModelError(
            f"the weights do not fit the model: {len(body)} tensors of its body are missing "
            "or have another shape "
            f"({', '.join(body[:3])}); expected weights of this very configuration"
        )
    if change and not info["mismatched_keys"]:
        # Weights of the right shape came along, but they stood for something else.
        renewed = renew_outputs(headed_model(module), wanted.outputs, seed=wanted.seed, besides=new)
        change = change if renewed else ""
    if new and not change:
        change = f"no weights for {', '.join(sorted({name.rpartition('.')[0] for name in new}))}"
    return [f"{change}: new head, seed {wanted.seed}"] if change else []


# ---------------------------------------------------------------- a live model


def _live_encoder(module: nn.Module) -> nn.Module:
    """A base model as an encoder.

    Raises:
        ModelError: a model with a head, or a wrapped one.
    """
    if isinstance(module, Encoder):
        return module
    if isinstance(module, PreTrainedModel) and module.base_model is module:
        return Encoder(module)
    raise ModelError(
        f"found a {type(module).__name__}; the task needs a transformers model without a head, such as AutoModel gives"
    )


def _adopt(module: nn.Module, spec: ModelSpec, wanted: _Wanted, dropout: float | None) -> list[str]:
    """Use a live model as it is, but for a head of another label set, or one that is not tied as it says."""
    outer: Any = headed_model(module)
    for key in spec.config:
        if key != "pad_token_id":
            raise ModelError(
                f"model.config.{key}: a live model is already built; only pad_token_id can be set"
            )
    override_config(outer.config, spec.config)
    notes = [*tie(outer), *filter(None, [keep_every_block(outer.config, outer)])]
    if dropout is not None:
        set_dropout_fields(outer.config, dropout)
        if not set_dropout(outer, dropout):
            notes.append(f"{outer.config.model_type} has no dropout to set")
    change = _label_change(outer.config, wanted) if wanted.labelled else ""
    if change:
        if outer is not module and hasattr(module, "get_base_model"):
            raise ModelError(f"{change}; a PEFT-wrapped model must be built with num_labels={wanted.outputs}")
        renew_outputs(outer, wanted.outputs, seed=wanted.seed)
        notes.append(f"{change}: new head, seed {wanted.seed}")
    _describe_head(outer.config, wanted)
    if wanted.labelled and hasattr(outer, "num_labels"):
        outer.num_labels = wanted.outputs
    return notes


# ---------------------------------------------------------------- labels and heads


def _meaningful(config: Any) -> tuple[str, ...] | None:
    names = tuple(str(config.id2label[index]) for index in sorted(config.id2label))
    generic = all(name == f"LABEL_{index}" for index, name in enumerate(names))
    return None if generic else names


def _head_change(config: Any, wanted: _Wanted) -> str:
    """Why the head in the files cannot be kept; empty when it can, or when there is none.

    Raises:
        ModelError: the same labels in another order.
    """
    if not wanted.labelled:
        return ""
    change = _label_change(config, wanted)
    suffix = HEADS[wanted.kind].suffix
    others = [name for name in config.architectures or () if "For" in str(name) and not name.endswith(suffix)]
    return change or (f"another kind of head ({others[0]} before)" if others else "")


def _label_change(config: Any, wanted: _Wanted) -> str:
    """Why the head cannot be kept; empty when it can.

    Raises:
        ModelError: the same labels in another order, which would silently swap classes.
    """
    if config.num_labels != wanted.outputs:
        return f"another number of labels ({config.num_labels} before, {wanted.outputs} now)"
    names = _meaningful(config)
    if names is None or wanted.id2label is None:
        return ""
    asked = tuple(wanted.id2label[index] for index in sorted(wanted.id2label))
    if names == asked:
        return ""
    if set(names) == set(asked):
        raise ModelError(f"labels in another order than the model's: found {asked}; expected {names}")
    return f"other labels ({', '.join(names[:3])} … before, {', '.join(asked[:3])} … now)"


def _describe_head(config: Any, wanted: _Wanted) -> None:
    """Write the labels into the configuration, in place."""
    if not wanted.labelled and not wanted.outputs:
        return
    if wanted.id2label is None:
        if config.num_labels != wanted.outputs:
            config.num_labels = wanted.outputs
    else:
        config.id2label = dict(wanted.id2label)
        config.label2id = {name: index for index, name in wanted.id2label.items()}
    config.problem_type = wanted.problem_type


def _check_head(module: nn.Module, wanted: _Wanted) -> None:
    """Refuse a model whose head is of another kind, as only a live one can be, and a causal one that looks ahead.

    Raises:
        ModelError: what was found and what the task needs.
    """
    parts = anatomy(module)
    name, suffix = type(parts.outer).__name__, HEADS[wanted.kind].suffix
    boxes = wanted.kind == "boxes" and queries_of(parts.outer) > 0
    if not boxes and (wanted.kind == "boxes" or (parts.pools == "tokens") == HEADS[wanted.kind].whole):
        gives = "one output per token" if parts.pools == "tokens" else "one output per sample"
        raise ModelError(f"found a {name}, whose head gives {gives}; the task needs an AutoModel{suffix}")
    if wanted.kind == "hidden":
        return
    if wanted.kind == "span" and not name.endswith(HEADS["span"].suffixes):
        raise ModelError(f"found a {name}; the task needs an AutoModel{suffix}")
    if HEADS[wanted.kind].defers_logits and parts.output_layer is None:
        raise ModelError(
            f"found a {name}, whose outputs are no token ids; the task needs an AutoModel{suffix}"
        )
    if wanted.kind == "causal" and _looks_ahead(parts.outer):
        raise ModelError(
            f"found a {name}, whose tokens see those that come after them; expected a decoder such as GPT-2 "
            "(for an encoder, model.config.is_decoder: true makes it one, task mlm uses it as it is)"
        )


def _looks_ahead(outer: Any) -> bool:
    """Whether another last token changes the first token's outputs."""
    ids_1L = trial_ids(outer)
    other_1L = ids_1L.clone()
    other_1L[0, -1] += 1
    with evaluating(outer):
        before, after = (outer(input_ids=ids).logits[0, 0] for ids in (ids_1L, other_1L))
    return not torch.equal(before, after)
