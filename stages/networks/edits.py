"""The kinds of edits of a network's shape: how each changes a network, and tensors that are shaped like its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from dualprune.stages.networks.matrices import matrix
from dualprune.stages.settings.base import Settings

Tensors = Mapping[str, Tensor]


class Edit(Settings):
    """One change of one module; what else it needs to know, each kind of edit adds."""

    edit: str
    """Its kind: a name from `EDITS`."""
    module: str
    """The module's path within the network; empty for the network itself."""


E = TypeVar("E", bound=Edit)


def as_they_are(edit: Edit, tensors: Tensors) -> dict[str, Tensor]:
    """Of edits that change no tensor."""
    return dict(tensors)


@dataclass(frozen=True)
class EditKind(Generic[E]):
    """A kind of edit."""

    settings: type[E]
    apply: Callable[[E, nn.Module], None]
    """Changes a network in place, on the device `meta` too; its weights are those that `carry` makes of them. Raises
    ValueError for one that it does not fit."""
    carry: Callable[[E, Tensors], dict[str, Tensor]] = as_they_are
    """A network's parameters and buffers as they are after it; those that go are left out."""
    beside: Callable[[E, Tensors], dict[str, Tensor]] | None = None
    """The same of what has their names and shapes but other numbers, such as masks and duals; None: as `carry`."""


class Narrow(Edit):
    """Fewer channels, heads or features: positions that stay along dimensions of a module's own tensors."""

    edit: Literal["narrow"] = "narrow"
    """Its kind."""
    kept: dict[str, list[list[list[int]] | None]] = Field(default={})
    """By tensor, for each of its dimensions: runs of positions, from the first to before the last; null: all."""
    attributes: dict[str, int] = Field(default={})
    """Numbers that the module has of itself, as they are afterwards."""


class Factorise(Edit):
    """A convolution or linear layer in two, one after the other, whose weights' product is its own: of low rank."""

    edit: Literal["factorise"] = "factorise"
    """Its kind."""
    rank: int = Field(ge=1)
    """Outputs of the first of them."""
    view: Literal["channel", "spatial"] = "channel"
    """As `set: lowrank` has it: the whole kernel and then 1 x 1, or its columns and then its rows."""


class Remove(Edit):
    """A module that gives what it is given: a residual block that is gone."""

    edit: Literal["remove"] = "remove"
    """Its kind."""


class Resolution(Edit):
    """Pictures are brought to another size within the network, before anything else."""

    edit: Literal["resolution"] = "resolution"
    """Its kind."""
    size: int
    """Height and width, in pixels."""


class FewerHeads(nn.MultiheadAttention):
    """torch's attention with heads missing: those that are left are as wide as they were."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As torch's own, of the same shapes. Raises ValueError for one with biases of keys and values."""
        if self.bias_k is not None or self.add_zero_attn:
            raise ValueError("attention with fewer heads takes no biases of keys and values")
        order = (lambda x: x) if self.batch_first else (lambda x: x.transpose(0, 1))
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            nn.functional.linear(order(x), weight, bias).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mask = _mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        given = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            given = nn.functional.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            y = given @ v
            given = given.mean(1) if average_attn_weights else given
        else:
            causal = is_causal and mask is None
            y = nn.functional.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal)
        return order(self.out_proj(y.transpose(1, 2).flatten(2))), given


def _mask(attention: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
    """What is added to attention's scores, [samples, heads or 1, queries or 1, keys]; None where nothing is."""

    def added(mask: Tensor) -> Tensor:
        mask = mask.to(like.device)
        if mask.dtype != torch.bool:
            return mask.to(like.dtype)
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))

    whole = None
    if attention is not None:
        whole = added(attention)
        whole = whole.view(1, 1, *whole.shape) if whole.ndim == 2 else whole.view(len(like), -1, *whole.shape[-2:])
    if padding is not None:
        keys = added(padding)[:, None, None]
        whole = keys if whole is None else whole + keys
    return whole


class Passed(nn.Module):
    """What stands for a module that was removed: its first input is its output."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """x, of any shape; the rest is left alone."""
        return x


def _sliced(tensor: Tensor, dims: Sequence[list[list[int]] | None]) -> Tensor:
    if len(dims) != tensor.ndim:
        raise ValueError(f"{len(dims)} dimensions of {tensor.ndim}")
    for dim, runs in enumerate(dims):
        if runs is None:
            continue
        if not runs or runs[-1][1] > tensor.shape[dim]:
            raise ValueError(f"positions to {runs[-1][1] if runs else 0} of {tensor.shape[dim]}")
        places = torch.cat([torch.arange(first, end, device="cpu") for first, end in runs]).to(tensor.device)
        tensor = tensor.index_select(dim, places)
    return tensor


def _narrow(edit: Narrow, network: nn.Module) -> None:
    module = network.get_submodule(edit.module)
    changed: dict[int, Tensor] = {}
    for name, dims in edit.kept.items():
        tensor = getattr(module, name, None)
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{edit.module} has no tensor {name}")
        with torch.no_grad():
            try:
                value = _sliced(tensor, dims)
            except ValueError as error:
                raise ValueError(f"{edit.module}.{name}: {error}") from None
        parameter = isinstance(tensor, nn.Parameter)
        changed[id(tensor)] = nn.Parameter(value, requires_grad=tensor.requires_grad) if parameter else value
    _put(network, changed)
    if isinstance(module, nn.MultiheadAttention):
        module.__class__ = FewerHeads
        module._qkv_same_embed_dim = False  # else torch's encoder layers pass its code by
    for name, number in edit.attributes.items():
        if not isinstance(getattr(module, name, None), int):
            raise ValueError(f"{edit.module or 'the network'} has no number {name}")
        setattr(module, name, number)


def _put(network: nn.Module, changed: Mapping[int, Tensor]) -> None:
    """Put tensors in all places of others, by identity: they may be tied."""
    left, seen = [network], {id(network)}
    while left:  # `modules()` takes a hundred times as long, which networks of a thousand edits feel
        module = left.pop()
        for held in (module._parameters, module._buffers):
            for name, one in held.items():
                if id(one) in changed:
                    held[name] = changed[id(one)]  # type: ignore[assignment]
        inner = [one for one in module._modules.values() if one is not None and id(one) not in seen]
        seen.update(map(id, inner))
        left += inner


def _narrowed(edit: Narrow, tensors: Tensors) -> dict[str, Tensor]:
    found = dict(tensors)
    for name, dims in edit.kept.items():
        whole = f"{edit.module}.{name}" if edit.module else name
        if whole in found:
            found[whole] = _sliced(found[whole], dims)
    return found


def _remove(edit: Remove, network: nn.Module) -> None:
    above, _, name = edit.module.rpartition(".")
    try:
        network.get_submodule(edit.module)
    except AttributeError:
        raise ValueError(f"there is no module {edit.module!r}") from None
    setattr(network.get_submodule(above), name, Passed())


def _removed(edit: Remove, tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{edit.module}.")}


SIZE = "_dualprune_size"
"""Of a network: the height and width of pictures within it."""


def _resize(edit: Resolution, network: nn.Module) -> None:
    """A later edit takes the place of an earlier one: nothing is resized twice."""
    if not hasattr(network, SIZE):
        network.register_forward_pre_hook(_resized)
    setattr(network, SIZE, (edit.size, edit.size))


def _resized(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    size = getattr(module, SIZE)
    return tuple(
        nn.functional.interpolate(one, size, mode="bilinear", antialias=True, align_corners=False)
        if isinstance(one, Tensor) and one.ndim == 4 and one.is_floating_point() and one.shape[2:] != size
        else one
        for one in args
    )


def _factorise(edit: Factorise, network: nn.Module) -> None:
    """The weights that come of it are `_factors`'; those of the two layers are as new ones are."""
    above, _, name = edit.module.rpartition(".")
    module = network.get_submodule(edit.module)
    setattr(network.get_submodule(above), name, _two(edit, module))


def divisible(module: nn.Module, path: str) -> None:
    """Raise ValueError for a layer that can't be factorised."""
    if type(module) not in (nn.Linear, nn.Conv2d):
        raise ValueError(f"{path} is a {type(module).__name__}, which can't be factorised")
    if isinstance(module, nn.Conv2d) and (module.groups != 1 or isinstance(module.padding, str)):
        raise ValueError(f"{path} has several groups, or padding that is named: it can't be factorised")


def _two(edit: Factorise, module: nn.Module) -> nn.Sequential:
    divisible(module, edit.module)
    there: dict[str, Any] = {"device": module.weight.device, "dtype": module.weight.dtype}
    if isinstance(module, nn.Linear):
        first = nn.Linear(module.in_features, edit.rank, bias=False, **there)
        return nn.Sequential(first, nn.Linear(edit.rank, module.out_features, module.bias is not None, **there))
    assert isinstance(module, nn.Conv2d)
    assert not isinstance(module.padding, str)
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = module.kernel_size, module.stride, module.padding, module.dilation
    whole = edit.view == "channel"
    first_conv = nn.Conv2d(
        module.in_channels,
        edit.rank,
        (kh, kw) if whole else (kh, 1),
        (sh, sw) if whole else (sh, 1),
        (ph, pw) if whole else (ph, 0),
        (dh, dw) if whole else (dh, 1),
        bias=False,
        padding_mode=module.padding_mode,
        **there,
    )
    second = nn.Conv2d(
        edit.rank,
        module.out_channels,
        1 if whole else (1, kw),
        1 if whole else (1, sw),
        0 if whole else (0, pw),
        1 if whole else (1, dw),
        bias=module.bias is not None,
        padding_mode=module.padding_mode,
        **there,
    )
    return nn.Sequential(first_conv, second)


def _factors(edit: Factorise, tensors: Tensors) -> dict[str, Tensor]:
    """The weights of both layers by the weight's singular values, shared evenly."""
    found = dict(tensors)
    weight, bias = found.pop(f"{edit.module}.weight", None), found.pop(f"{edit.module}.bias", None)
    if bias is not None:
        found[f"{edit.module}.1.bias"] = bias
    if weight is None:
        return found
    u, s, v = torch.linalg.svd(matrix(weight.double(), edit.view), full_matrices=False)
    root = s[: edit.rank].sqrt()
    left, right = u[:, : edit.rank] * root, root[:, None] * v[: edit.rank]
    if weight.ndim == 2:
        first, second = right, left
    elif edit.view == "channel":
        first, second = right.view(edit.rank, *weight.shape[1:]), left[:, :, None, None]
    else:
        first = left.T.reshape(edit.rank, weight.shape[1], weight.shape[2], 1)
        second = right.reshape(edit.rank, weight.shape[0], 1, weight.shape[3]).transpose(0, 1)
    found[f"{edit.module}.0.weight"] = first.to(weight.dtype).contiguous()
    found[f"{edit.module}.1.weight"] = second.to(weight.dtype).contiguous()
    return found


def _without(edit: Factorise, tensors: Tensors) -> dict[str, Tensor]:
    """What is of one layer's weight is of neither of two."""
    return {name: tensor for name, tensor in tensors.items() if name != f"{edit.module}.weight"}


EDITS: dict[str, EditKind[Any]] = {
    "narrow": EditKind(Narrow, _narrow, _narrowed),
    "factorise": EditKind(Factorise, _factorise, _factors, _without),
    "remove": EditKind(Remove, _remove, _removed),
    "resolution": EditKind(Resolution, _resize),
}
"""The table of edits. To add one: its settings, how it is made, and a line here."""
