"""A network followed through one call by `torch.export`, operation by operation, without computing anything."""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dualprune.stages.coupling.atoms import Atoms, Dims, Labels
from dualprune.stages.coupling.known import Call, Known, Unknown, shape_of
from dualprune.stages.coupling.rules import RULES
from dualprune.stages.settings.base import SpecError


class Untraceable(SpecError):
    """A network that can't be followed: a problem of the setting `model`."""

    def __init__(self, why: str) -> None:
        super().__init__([(("model",), f"what goes together in the network can't be found: {why}")])
        self.why = why

    def __reduce__(self) -> tuple[type[Untraceable], tuple[str]]:
        return Untraceable, (self.why,)


@dataclass(frozen=True)
class Counted:
    """Numbers that an operation was given by a module's code, and the positions that each of them counts."""

    modules: tuple[str, ...]
    """Paths of the modules that were at work, the innermost last."""
    numbers: tuple[int, ...]
    labels: tuple[Labels, ...]


@dataclass
class Trace:
    """What was found of a network."""

    atoms: Atoms
    tensors: dict[str, Dims] = field(default_factory=dict)
    """Of parameters and buffers that were used, by name."""
    ends: dict[tuple[str, int], str] = field(default_factory=dict)
    """What dimensions of weights number: `output` or `input` of their layers, or of tables an `entry`."""
    heads: set[int] = field(default_factory=set)
    """Atoms along which attention is apart."""
    counted: list[Counted] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    """Operations that no rule knows, and how often they came: what they touch stays as it is."""


def traced(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Trace:
    """Follow a network, in evaluation mode, through a call. Raises Untraceable."""
    program = _exported(network, args, kwargs)
    known = Known()
    trace = Trace(known.atoms)
    values: dict[Any, Any] = {}
    names = _names(network, program.graph_signature)
    program.graph.eliminate_dead_code()  # torch's attention makes means over heads that hardly any code reads
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = _placed(node, names, known, trace)
        elif node.op == "call_function":
            values[node] = _called(node, values, known, trace)
        elif node.op == "output":
            for dims in _leaves(_mapped(node.args, values)):
                known.atoms.fix(*dims)
    known.atoms.settle()
    trace.ends = _ends(trace, known)
    trace.heads = {one for labels in known.heads for one in known.atoms.roots(labels).tolist()}
    return trace


def _exported(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    only = network.register_forward_hook(_tensors)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(network, tuple(args), dict(kwargs), strict=False)
    except Exception as error:
        raise Untraceable(f"torch.export can't follow it: {type(error).__name__}: {_reason(str(error))}") from error
    finally:
        only.remove()


def _tensors(_network: nn.Module, _args: Any, outputs: Any) -> list[Tensor]:
    """What a network gives, without what is no tensor: torch.export refuses objects that it doesn't know, such as
    caches of decoders."""
    return [one for one in pytree.tree_leaves(outputs) if isinstance(one, Tensor)]


def _reason(text: str) -> str:
    """What torch.export says first, and the line of code that it says it of."""
    first = text.strip().partition("\n")[0]
    at = re.search(r'raised this error:\s*File "([^"]+)", line (\d+), in \w+\s+(.+)', text)
    return f"{first} in {Path(at[1]).name}, line {at[2]}: {at[3]}" if at else first


def _names(network: nn.Module, signature: Any) -> dict[str, str]:
    """The network's names of the program's tensors: of tied ones, the first."""
    first: dict[int, str] = {}
    for name, tensor in (
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ):
        first.setdefault(id(tensor), name)
    whole = {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }
    given = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {place: first[id(whole[name])] for place, name in given.items() if name in whole}


def _placed(node: Any, names: Mapping[str, str], known: Known, trace: Trace) -> Any:
    """The dimensions of an input: those of parameters and buffers may go, those of the caller's don't."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return value
    name = names.get(node.name)
    if name is None:
        return known.fixed(tuple(value.shape))
    if name not in trace.tensors:
        trace.tensors[name] = tuple(known.atoms.new(size) for size in value.shape)
    return trace.tensors[name]


def _called(node: Any, values: Mapping[Any, Any], known: Known, trace: Trace) -> Any:
    if str(node.target) == "<built-in function getitem>":
        return values[node.args[0]][node.args[1]]
    found = node.meta.get("val")
    several = isinstance(found, tuple | list)
    shapes = [tuple(one.shape) for one in (found if several else [found]) if isinstance(one, Tensor)]
    call = _call(node, values, shapes)
    known.sizes = []
    try:
        rule = RULES.get(call.name)
        if rule is None:
            raise Unknown
        result = list(rule(known, call))
        if [shape_of(dims) for dims in result] != shapes:
            raise Unknown
    except (Unknown, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError):
        trace.unknown[call.name] += 1
        for dims in _leaves(list(call.args.values())):
            known.atoms.fix(*dims)
        result = [known.fixed(shape) for shape in shapes]
    stack = tuple(path for path, _ in node.meta.get("nn_module_stack", {}).values())
    if known.sizes:
        numbers, labels = zip(*known.sizes, strict=True)
        trace.counted.append(Counted(stack, numbers, labels))
    return result if several else result[0] if result else None


def _ends(trace: Trace, known: Known) -> dict[tuple[str, int], str]:
    """What dimensions number: rules are given those of a weight as they are, or turned."""
    ends = {
        id(labels): end
        for end, found in (("entry", known.entries), ("output", known.outputs), ("input", known.inputs))
        for labels in found
    }
    return {
        (name, number): ends[id(labels)]
        for name, dims in trace.tensors.items()
        for number, labels in enumerate(dims)
        if id(labels) in ends
    }


def _call(node: Any, values: Mapping[Any, Any], shapes: list[tuple[int, ...]]) -> Call:
    target = node.target
    schema = getattr(target, "_schema", None)
    if schema is None:
        return Call(str(target), {str(n): _mapped(one, values) for n, one in enumerate(node.args)}, shapes)
    name = schema.name.partition("::")[2]
    # Names that begin with an underscore are operations of their own; those that end with one change their input.
    args = {one.name: _mapped(given, values) for one, given in zip(schema.arguments, node.args, strict=False)}
    args |= {key: _mapped(given, values) for key, given in node.kwargs.items()}
    return Call(name.rstrip("_"), args, shapes)


def _mapped(value: Any, values: Mapping[Any, Any]) -> Any:
    """An argument with the dimensions of tensors in their places."""
    if isinstance(value, torch.fx.Node):
        return values.get(value)
    if isinstance(value, list | tuple):
        return [_mapped(one, values) for one in value]
    if isinstance(value, dict):
        return [_mapped(one, values) for one in value.values()]
    return value


def _leaves(value: Any) -> list[Dims]:
    """The dimensions of all tensors in an argument."""
    if isinstance(value, tuple):
        return [value]
    return [one for item in value for one in _leaves(item)] if isinstance(value, list) else []
