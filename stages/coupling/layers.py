"""Rules for layers with weights, and for attention."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from dualprune.stages.coupling.atoms import Dims, Labels
from dualprune.stages.coupling.known import Call, Known, Unknown, tensors


def convolution(known: Known, call: Call) -> Sequence[Dims]:
    x, weight, bias = call.args["input"], call.args["weight"], call.args.get("bias")
    known.atoms.fix(*weight[2:], *x[2:])
    outputs, inputs = weight[0], weight[1]
    if bias is not None:
        known.join(outputs, bias[0])
    groups = call.args.get("groups") or 1
    if groups == 1:
        known.join(x[1], inputs)
        known.inputs.append(inputs)
    elif len(inputs) == 1:  # depthwise: so many outputs of each input
        known.atoms.fix(inputs)
        known.join(outputs, np.repeat(x[1], len(outputs) // groups))
        known.sizes += [(groups, x[1])]
    else:  # the same of each group, so that they stay equally large
        _each(known, x[1], inputs, groups)
        _each(known, outputs, outputs[: len(outputs) // groups], groups)
        known.inputs.append(inputs)
    known.outputs.append(outputs)
    return [(x[0], outputs, *known.fixed(call.shape[2:]))]


def _each(known: Known, whole: Labels, part: Labels, times: int) -> None:
    known.join(whole, np.tile(part, times))


def transposed(known: Known, call: Call) -> Sequence[Dims]:
    x, weight, bias = call.args["input"], call.args["weight"], call.args.get("bias")
    if (call.args.get("groups") or 1) != 1:
        raise Unknown
    known.atoms.fix(*weight[2:], *x[2:])
    known.join(x[1], weight[0])
    if bias is not None:
        known.join(weight[1], bias[0])
    known.inputs.append(weight[0])
    known.outputs.append(weight[1])
    return [(x[0], weight[1], *known.fixed(call.shape[2:]))]


def linear(known: Known, call: Call) -> Sequence[Dims]:
    x, weight, bias = call.args["input"], call.args["weight"], call.args.get("bias")
    known.join(x[-1], weight[1])
    if bias is not None:
        known.join(weight[0], bias[0])
    known.inputs.append(weight[1])
    known.outputs.append(weight[0])
    return [(*x[:-1], weight[0])]


def addmm(known: Known, call: Call) -> Sequence[Dims]:
    """bias + x weight, with the weight's inputs first."""
    bias, x, weight = call.args["self"], call.args["mat1"], call.args["mat2"]
    known.join(x[1], weight[0])
    known.join(weight[1], bias[-1])
    known.inputs.append(weight[0])
    known.outputs.append(weight[1])
    return [(x[0], weight[1])]


def product(known: Known, call: Call) -> Sequence[Dims]:
    x, y = (one for value in call.args.values() for one in tensors(value))
    if len(y) == 2 and len(x) > 1:
        known.join(x[-1], y[0])
        known.inputs.append(y[0])
        known.outputs.append(y[1])
        return [(*x[:-1], y[1])]
    if min(len(x), len(y)) < 3:
        raise Unknown
    known.atoms.fix(*x[-2:], *y[-2:])  # of attention whole heads go: what is divided by depends on their width
    before = [known.join(*pair) for pair in zip_longest(x[-3::-1], y[-3::-1], fillvalue=np.zeros(1, np.int64))]
    known.heads += before
    return [(*reversed(before), *known.fixed(call.shape[-2:]))]


def added_product(known: Known, call: Call) -> Sequence[Dims]:
    """What is added, such as a mask, and products of matrices."""
    bias, x, y = call.args["self"], call.args["batch1"], call.args["batch2"]
    ((before, *rest),) = product(known, Call(call.name, {"x": x, "y": y}, call.shapes))
    known.atoms.fix(*bias[-2:])
    return [(known.join(before, bias[0]) if len(bias) > 2 else before, *rest)]


def attention(known: Known, call: Call) -> Sequence[Dims]:
    query, key, value = (call.args[name] for name in ("query", "key", "value"))
    if len({len(query), len(key), len(value)}) > 1 or len(query[-3]) != len(key[-3]):
        raise Unknown
    mask = call.args.get("attn_mask")
    for one in (query, key, value):
        known.atoms.fix(*one[-2:])
    if mask is not None:
        known.atoms.fix(*mask[-2:])
    before = list(query[:-2])
    for other in (key, value, *(() if mask is None else (mask,))):
        for number, labels in enumerate(reversed(other[:-2])):
            before[-1 - number] = known.join(before[-1 - number], labels)
    known.heads.append(before[-1])
    return [(*before, *known.fixed(call.shape[-2:]))]


def einsum(known: Known, call: Call) -> Sequence[Dims]:
    """Along what all operands and the result share, as the heads of attention, atoms can go; along nothing else."""
    given = tensors(call.args["tensors"])
    terms, _, result = call.args["equation"].replace(" ", "").partition("->")
    if "." in terms or not result:
        raise Unknown
    found: dict[str, Labels] = {}
    shared = set(result).intersection(*map(set, terms.split(",")))
    for letters, dims in zip(terms.split(","), given, strict=True):
        for letter, labels in zip(letters, dims, strict=True):
            if letter not in shared:
                known.atoms.fix(labels)
            known.join(found.setdefault(letter, labels), labels)
    known.heads += [found[letter] for letter in result if letter in shared]
    return [tuple(found[letter] for letter in result)]


def embedding(known: Known, call: Call) -> Sequence[Dims]:
    weight, indices = call.args["weight"], call.args["indices"]
    known.atoms.fix(weight[0], *indices)
    known.entries.append(weight[1])
    return [(*indices, weight[1])]


def batch_norm(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args["input"]
    if call.args.get("training"):  # by its own mean and deviation, as some code does it to weights
        known.atoms.fix(x[0], *x[2:])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call.args.get(name) is not None:
            known.join(x[1], call.args[name][0])
    return [x, *(known.fixed(shape) for shape in call.shapes[1:])]


def layer_norm(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args["input"]
    count = len(call.args["normalized_shape"])
    known.atoms.fix(*x[-count:])
    for name in ("weight", "bias"):
        if call.args.get(name) is not None:
            known.atoms.fix(*call.args[name])
    return [x, *(known.fixed(shape) for shape in call.shapes[1:])]


def group_norm(known: Known, call: Call) -> Sequence[Dims]:
    """Each group is normalised by itself, so that whole groups can go; one that lost a channel would be another."""
    x, groups = call.args["input"], call.args["num_groups"]
    affine = [call.args[name][0] for name in ("weight", "bias") if call.args.get(name) is not None]
    for one in affine:
        known.join(x[1], one)
    if groups == 1:
        known.atoms.fix(x[1])
        return [x]
    first, *others = x[1].reshape(groups, -1).T
    for one in others:
        known.join(first, one)
    known.sizes += [(groups, first)]
    return [x]


def prelu(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args.get("input", call.args.get("self"))
    known.join(x[1], call.args["weight"][0])
    return [x]
