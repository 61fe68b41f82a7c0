"""Linear layers whose weights are kept in 8 or 4 bits, for adapters beside them (`model.adapter.base`; QLoRA).

    8bit    W[o, i] = scale[o] * q[o, i], q int8: one scale a row, as torchao's Int8WeightOnlyConfig rounds them
    4bit    NormalFloat: each 64 numbers share a largest value, of which each 256 share another (double quantisation),
            as bitsandbytes rounds them (bnb_4bit_quant_type nf4, bnb_4bit_use_double_quant)

Those libraries round and look up; the product is torch's own, in whatever numbers the plan multiplies, so that padded,
packed, trained and evaluated passes see the same W. Nothing is added to W; backward reads it from its codes again.
Rounding is done once, on the CPU and by one thread: every rank and every resume has the same codes.

Source: Dettmers et al. 2023, arXiv 2305.14314, section 3. Differs from it: embeddings, norms and the head stay fp32.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from transformers.pytorch_utils import Conv1D
from typing_extensions import override

from bigbatch.errors import ModelError

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx

    class _Ctx(FunctionCtx):
        layer: QuantisedLinear


Format = Literal["8bit", "4bit"]
FORMATS: tuple[Format, ...] = ("8bit", "4bit")
IN_CONFIG = "bigbatch_base"
"""Key of config.json: what the linear layers of the blocks were kept in."""
_BLOCK, _OUTER_BLOCK = 64, 256
_LIBRARIES: Mapping[Format, tuple[str, str]] = {
    "8bit": ("torchao.quantization", "torchao"),
    "4bit": ("bitsandbytes.functional", "bitsandbytes"),
}


class QuantisedLinear(nn.Linear):
    """A linear layer that keeps codes instead of its weight; never trained.

    Args:
        layer: torch's, or transformers' Conv1D, on the CPU.
        to: what its weight becomes.

    Raises:
        ModelError: the library that rounds is not installed, or a weight that cannot be rounded.
    """

    codes: Tensor
    scales: Tensor
    outer_scales: Tensor
    offset: Tensor
    table: Tensor
    outer_table: Tensor

    def __init__(self, layer: nn.Linear | Conv1D, to: Format) -> None:
        nn.Module.__init__(self)  # the parent would make a weight
        self.turned = isinstance(layer, Conv1D)
        weight_OI = (layer.weight.T if self.turned else layer.weight).detach().float().contiguous()
        self.out_features, self.in_features = weight_OI.shape
        self.format: Format = to
        rounded = (_in_8_bits if to == "8bit" else _in_4_bits)(weight_OI)
        for name, tensor in rounded.items():
            self.register_parameter(name, nn.Parameter(tensor.clone(), requires_grad=False))
        bias = getattr(layer, "bias", None)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(out, in) fp32: what the codes stand for, made anew each time."""
        with torch.no_grad():
            if self.format == "8bit":
                return self.codes.float() * self.scales.float()
            return _of_4_bits(self)

    @property
    def hidden_numbers(self) -> int:
        """How many more numbers its weight has than its tensors."""
        kept = sum(item.numel() for name, item in self.named_parameters() if name != "bias")
        return self.in_features * self.out_features - kept

    @override
    def forward(self, input: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        return _Product.apply(input, self)

    def opened(self) -> nn.Linear | Conv1D:
        """The layer with the weight that its codes stand for, as the model's own class has it."""
        weight_OI = self.weight
        layer: nn.Linear | Conv1D
        if self.turned:
            layer = Conv1D(self.out_features, self.in_features)
        else:
            layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        layer.weight = nn.Parameter(
            weight_OI.T.contiguous() if self.turned else weight_OI, requires_grad=False
        )
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        return layer.train(self.training)


class _Product(torch.autograd.Function):
    """x W' + b, W read from its codes in forward and again in backward, so that no pass keeps it."""

    @staticmethod
    @override
    def forward(ctx: _Ctx, inputs: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return linear(inputs, layer.weight.to(inputs.dtype), layer.bias)

    @staticmethod
    @override
    def backward(ctx: _Ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.layer.weight.to(grad.dtype), None


# ---------------------------------------------------------------- rounding


def _library(to: Format) -> ModuleType:
    name, extra = _LIBRARIES[to]
    before = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)  # of parts that neither CPUs nor this need
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(
            f"model.adapter.base: {to} needs {extra} ({error}); pip install 'bigbatch[{extra}]', or take base: fp32"
        ) from error
    finally:
        logging.disable(before)


def _in_8_bits(weight_OI: Tensor) -> dict[str, Tensor]:
    library = _library("8bit")
    holder = nn.Sequential(nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False))
    holder[0].weight = nn.Parameter(weight_OI, requires_grad=False)
    library.quantize_(holder, library.Int8WeightOnlyConfig(set_inductor_config=False))
    found = holder[0].weight
    return {"codes": getattr(found, "qdata"), "scales": getattr(found, "scale")}  # noqa: B009


def _in_4_bits(weight_OI: Tensor) -> dict[str, Tensor]:
    numbers = weight_OI.numel()
    whole = pad(weight_OI.reshape(-1), (0, -numbers % _BLOCK))  # zeros, which no largest value is
    packed, state = _library("4bit").quantize_4bit(
        whole.reshape(-1, _BLOCK), blocksize=_BLOCK, compress_statistics=True, quant_type="nf4"
    )
    outer = state.state2
    return {
        "codes": packed,
        "scales": state.absmax,
        "outer_scales": outer.absmax,
        "offset": state.offset.reshape(1),
        "table": state.code,
        "outer_table": outer.code,
    }


def _of_4_bits(layer: QuantisedLinear) -> Tensor:
    # Rows of one block each: of rows that are no whole blocks, such as 32 or 96 numbers, bitsandbytes 0.50 takes the
    # wrong block's largest value on CPUs with AVX-512.
    library = _library("4bit")
    outer = library.QuantState(
        absmax=layer.outer_scales.float(),
        code=layer.outer_table.float(),
        blocksize=_OUTER_BLOCK,
        dtype=torch.float32,
    )
    state = library.QuantState(
        absmax=layer.scales,
        shape=torch.Size((len(layer.scales), _BLOCK)),
        code=layer.table.float(),
        blocksize=_BLOCK,
        quant_type="nf4",
        dtype=torch.float32,
        offset=layer.offset.float()[0],
        state2=outer,
    )
    numbers = layer.out_features * layer.in_features
    return library.dequantize_4bit(layer.codes, state).reshape(-1)[:numbers].reshape(layer.out_features, -1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """A mean of more threads may end in other bits, and another machine has others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def quantise(model: nn.Module, names: list[str], to: Format) -> str:
    """Keep the weights of some linear layers in fewer bits, in place.

    Args:
        model: the transformers model, on the CPU.
        names: of the layers, dotted.
        to: what their weights become.

    Returns:
        What was done, for people.

    Raises:
        ModelError: the library is not installed; a layer whose weight is another's too.
    """
    kept = {id(model.get_submodule(name).weight): name for name in names}
    for name, item in model.named_parameters(remove_duplicate=False):
        own = kept.get(id(item))
        if own is not None and name != f"{own}.weight":
            raise ModelError(f"model.adapter.base: {to}: {own} and {name} are one tensor; take base: fp32")
    wide = narrow = 0
    with _one_thread():
        for name in names:
            layer = model.get_submodule(name)
            assert isinstance(layer, (nn.Linear, Conv1D))
            small = QuantisedLinear(layer, to).train(layer.training)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, small)
            wide += 4 * layer.weight.numel()
            narrow += sum(item.nbytes for key, item in small.named_parameters() if key != "bias")
    setattr(model.config, IN_CONFIG, to)
    return (
        f"the weights of {len(names)} linear layers are kept in {to}: {narrow / 2**20:,.1f} MiB instead of "
        f"{wide / 2**20:,.1f}, {4 * narrow / wide:.3f} bytes a number; embeddings, norms and head stay fp32"
    )


def kept_in(config: object, where: str) -> Format | None:
    """What a configuration says the base was kept in; None: fp32.

    Raises:
        ModelError: another word.
    """
    found = getattr(config, IN_CONFIG, None)
    if found is None or found in FORMATS:
        return found
    raise ModelError(f"{where}: {IN_CONFIG}: found {str(found)[:40]!r}; expected 8bit | 4bit, or nothing")


def quantised_layers(module: nn.Module) -> Iterator[tuple[str, QuantisedLinear]]:
    """Name and module of each, those inside layers with adapters too."""
    for name, part in module.named_modules():
        if isinstance(part, QuantisedLinear):
            yield name, part


def open_all(model: nn.Module) -> None:
    """Put plain fp32 layers where quantised ones are, in place, and forget that they were."""
    for name, layer in list(quantised_layers(model)):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.opened())
    if hasattr(model.config, IN_CONFIG):
        delattr(model.config, IN_CONFIG)


def hidden_numbers(module: nn.Module) -> int:
    """How many more numbers a model has than its tensors hold: codes of several lie in one byte."""
    return sum(layer.hidden_numbers for _, layer in quantised_layers(module))
