"""What each operation of torch lets go together: a rule for each, from its inputs' dimensions to its output's.

A rule that is missing, or does not know a case, fixes all dimensions of what it is given and gives: nothing of them can
go. To add one: a function, and its names in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from math import prod
from typing import Any

import numpy as np

from dualprune.stages.coupling.atoms import Atoms, Dims, Labels

Shape = tuple[int, ...]


class Unknown(Exception):
    """A case that a rule does not know."""


@dataclass
class Known:
    """What the rules have found so far."""

    atoms: Atoms = field(default_factory=Atoms)
    outputs: list[Labels] = field(default_factory=list)
    """Dimensions of weights that number outputs of their layer."""
    inputs: list[Labels] = field(default_factory=list)
    """The same of inputs."""
    heads: list[Labels] = field(default_factory=list)
    """Dimensions along which attention is apart."""
    sizes: list[tuple[int, Labels]] = field(default_factory=list)
    """Numbers that the present operation was given, and the positions that each of them counts."""

    def fixed(self, shape: Shape) -> Dims:
        """Dimensions of which nothing can go."""
        return tuple(np.zeros(size, np.int64) for size in shape)

    def join(self, one: Labels, other: Labels) -> Labels:
        """Let two dimensions go together; a dimension of size 1 goes with none."""
        if len(one) == len(other):
            self.atoms.join(one, other)
            return one
        if len(one) == 1 or len(other) == 1:
            return one if len(other) == 1 else other
        raise Unknown


@dataclass(frozen=True)
class Call:
    """One operation: its arguments by name, tensors among them as their dimensions, and the shapes of its results."""

    name: str
    args: Mapping[str, Any]
    shapes: Sequence[Shape]

    @property
    def shape(self) -> Shape:
        """Of its only result."""
        return self.shapes[0]


Rule = Callable[[Known, Call], Sequence[Dims]]


def axis(number: int, dims: Sequence[Any]) -> int:
    """A dimension's number, counted from the first."""
    return number % max(1, len(dims))


def shape_of(dims: Dims) -> Shape:
    """Sizes."""
    return tuple(len(one) for one in dims)


def _same(known: Known, call: Call) -> Sequence[Dims]:
    """Entry by entry, of all tensors that it is given, which may be spread over one another."""
    given = [one for value in call.args.values() for one in _tensors(value)]
    out: list[Labels] = []
    for aligned in zip_longest(*(reversed(dims) for dims in given), fillvalue=np.zeros(1, np.int64)):
        labels = aligned[0]
        for one in aligned[1:]:
            labels = known.join(labels, one)
        out.append(labels)
    dims = tuple(reversed(out))
    if shape_of(dims) != call.shape:
        raise Unknown
    return [dims]


def _tensors(value: Any) -> list[Dims]:
    """The tensors of an argument."""
    if isinstance(value, tuple) and all(isinstance(one, np.ndarray) for one in value):
        return [value]
    return [one for item in value for one in _tensors(item)] if isinstance(value, list) else []


def _convolution(known: Known, call: Call) -> Sequence[Dims]:
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
    else:  # the same of each group, so that they stay equally large
        _each(known, x[1], inputs, groups)
        _each(known, outputs, outputs[: len(outputs) // groups], groups)
        known.inputs.append(inputs)
    known.outputs.append(outputs)
    return [(x[0], outputs, *known.fixed(call.shape[2:]))]


def _each(known: Known, whole: Labels, part: Labels, times: int) -> None:
    known.join(whole, np.tile(part, times))


def _transposed(known: Known, call: Call) -> Sequence[Dims]:
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


def _linear(known: Known, call: Call) -> Sequence[Dims]:
    x, weight, bias = call.args["input"], call.args["weight"], call.args.get("bias")
    known.join(x[-1], weight[1])
    if bias is not None:
        known.join(weight[0], bias[0])
    known.inputs.append(weight[1])
    known.outputs.append(weight[0])
    return [(*x[:-1], weight[0])]


def _addmm(known: Known, call: Call) -> Sequence[Dims]:
    """bias + x weight, with the weight's inputs first."""
    bias, x, weight = call.args["self"], call.args["mat1"], call.args["mat2"]
    known.join(x[1], weight[0])
    known.join(weight[1], bias[-1])
    known.inputs.append(weight[0])
    known.outputs.append(weight[1])
    return [(x[0], weight[1])]


def _product(known: Known, call: Call) -> Sequence[Dims]:
    x, y = (one for value in call.args.values() for one in _tensors(value))
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


def _attention(known: Known, call: Call) -> Sequence[Dims]:
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


def _einsum(known: Known, call: Call) -> Sequence[Dims]:
    """Along what all operands and the result share, as the heads of attention, atoms can go; along nothing else."""
    given = _tensors(call.args["tensors"])
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


def _embedding(known: Known, call: Call) -> Sequence[Dims]:
    weight, indices = call.args["weight"], call.args["indices"]
    known.atoms.fix(weight[0], *indices)
    return [(*indices, weight[1])]


def _batch_norm(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args["input"]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call.args.get(name) is not None:
            known.join(x[1], call.args[name][0])
    return [x, *(known.fixed(shape) for shape in call.shapes[1:])]


def _layer_norm(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args["input"]
    count = len(call.args["normalized_shape"])
    known.atoms.fix(*x[-count:])
    for name in ("weight", "bias"):
        if call.args.get(name) is not None:
            known.atoms.fix(*call.args[name])
    return [x, *(known.fixed(shape) for shape in call.shapes[1:])]


def _group_norm(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args["input"]
    known.atoms.fix(x[1], *(call.args[n][0] for n in ("weight", "bias") if call.args.get(n) is not None))
    return [x]


def _prelu(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args.get("input", call.args.get("self"))
    known.join(x[1], call.args["weight"][0])
    return [x]


def _spatial(known: Known, call: Call) -> Sequence[Dims]:
    """Over the places of pictures or sequences: samples and channels stay as they are."""
    x = call.args.get("input", call.args.get("self"))
    kept = [labels for labels, size in zip(x[:2], call.shape[:2], strict=True) if len(labels) == size]
    if len(kept) != 2 or len(x) != len(call.shape) or len(x) < 3:
        raise Unknown
    known.atoms.fix(*x[2:])
    return [(*kept, *known.fixed(shape[2:])) for shape in call.shapes]


def _reduced(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args.get("self", call.args.get("input"))
    over = call.args.get("dim")
    if "other" in call.args:  # the smaller or larger of two tensors' entries
        return _same(known, call)
    if over is None or over == []:
        over = list(range(len(x)))
    numbers = {axis(one, x) for one in ([over] if isinstance(over, int) else over)}
    known.atoms.fix(*(x[number] for number in numbers))
    keep = call.args.get("keepdim", False)
    dims = [known.fixed((1,))[0] if number in numbers else labels for number, labels in enumerate(x)]
    if not keep:
        dims = [labels for number, labels in enumerate(x) if number not in numbers]
    return [tuple(dims)] * len(call.shapes)


def _along(known: Known, call: Call) -> Sequence[Dims]:
    """Something along one dimension, as softmax is: that stays whole."""
    x = call.args.get("self", call.args.get("input"))
    dims = call.args.get("dim", call.args.get("dims"))
    known.atoms.fix(*(x[axis(one, x)] for one in ([dims] if isinstance(dims, int) else dims)))
    return [x] * len(call.shapes)


def _permuted(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args["self"]
    return [tuple(x[axis(one, x)] for one in call.args["dims"])]


def _transpose(known: Known, call: Call) -> Sequence[Dims]:
    x = list(call.args["self"])
    if len(x) > 1:
        one, other = (
            axis(call.args.get(first, call.args.get(second, default)), x)
            for first, second, default in (("dim0", "axis0", 0), ("dim1", "axis1", 1))
        )
        x[one], x[other] = x[other], x[one]
    return [tuple(x)]


def _seen(known: Known, call: Call) -> Sequence[Dims]:
    """Another shape for the same entries: from both ends of runs that have as many, dimensions are taken as they are,
    put together or taken apart."""
    x = call.args.get("self", call.args.get("input"))
    given, wanted = list(x), list(call.shape)
    out: list[Labels] = []
    while given or wanted:
        run, sizes = [given.pop(0)] if given else [], [wanted.pop(0)] if wanted else []
        while (have := prod(map(len, run))) != (want := prod(sizes)):
            if have < want:
                run.append(given.pop(0))
            else:
                sizes.append(wanted.pop(0))
        out += _run(known, run, sizes)
    known.sizes += [(len(labels), labels) for labels in out]
    return [tuple(out)]


def _run(known: Known, run: list[Labels], sizes: list[int]) -> list[Labels]:
    many, several = [one for one in run if len(one) > 1], [size for size in sizes if size > 1]
    if len(many) == 1 and several == [len(many[0])]:
        found = many
    elif len(several) == 1:
        found = [known.atoms.new(several[0])]
        known.atoms.product(found[0], tuple(many))
    elif not several:
        found = []
    else:
        flat = many[0] if len(many) == 1 else known.atoms.new(prod(several))
        if len(many) > 1:
            known.atoms.product(flat, tuple(many))
        found = [known.atoms.new(size) for size in several]
        known.atoms.product(flat, tuple(found))
    rest = iter(found)
    return [next(rest) if size > 1 else np.zeros(size, np.int64) for size in sizes]


def _expanded(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args.get("self", call.args.get("input"))
    padded = (*known.fixed((1,) * (len(call.shape) - len(x))), *x)
    dims = tuple(
        labels if len(labels) == size else np.zeros(size, np.int64)
        for labels, size in zip(padded, call.shape, strict=True)
    )
    known.sizes += [(len(labels), labels) for labels in dims]
    return [dims]


def _repeated(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args["self"]
    padded = (*known.fixed((1,) * (len(call.shape) - len(x))), *x)
    return [tuple(np.tile(labels, n) for labels, n in zip(padded, call.args["repeats"], strict=True))]


def _each_repeated(known: Known, call: Call) -> Sequence[Dims]:
    """Each position several times in turn, as of the keys and values that several heads share."""
    x, number = list(call.args["self"]), call.args.get("dim")
    if not isinstance(call.args["repeats"], int) or number is None:
        raise Unknown
    x[axis(number, x)] = np.repeat(x[axis(number, x)], call.args["repeats"])
    return [tuple(x)]


def _concatenated(known: Known, call: Call) -> Sequence[Dims]:
    given = _tensors(call.args["tensors"])
    given = [dims for dims in given if shape_of(dims) != (0,)]
    number = axis(call.args.get("dim", 0), given[0])
    dims = [
        np.concatenate([one[at] for one in given]) if at == number else _all(known, [one[at] for one in given])
        for at in range(len(given[0]))
    ]
    return [tuple(dims)]


def _all(known: Known, several: list[Labels]) -> Labels:
    first = several[0]
    for other in several[1:]:
        known.join(first, other)
    return first


def _stacked(known: Known, call: Call) -> Sequence[Dims]:
    given = _tensors(call.args["tensors"])
    dims = [_all(known, [one[at] for one in given]) for at in range(len(given[0]))]
    number = axis(call.args.get("dim", 0), [*dims, None])
    dims.insert(number, np.zeros(len(given), np.int64))
    return [tuple(dims)]


def _chunks(known: Known, call: Call) -> Sequence[Dims]:
    """Equal parts, which stay equal: the same goes from each."""
    x = call.args["self"]
    number = axis(call.args.get("dim", 0), x)
    sizes = [shape[number] for shape in call.shapes]
    ends = np.cumsum(sizes)
    parts = [x[number][end - size : end] for end, size in zip(ends, sizes, strict=True)]
    if len(set(sizes)) == 1:
        _all(known, parts)
    known.sizes += [(len(part), part) for part in parts[: 1 if len(set(sizes)) == 1 else None]]
    return [(*x[:number], part, *x[number + 1 :]) for part in parts]


def _unbound(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args["self"]
    number = axis(call.args.get("dim", 0), x)
    known.atoms.fix(x[number])
    return [(*x[:number], *x[number + 1 :])] * len(call.shapes)


def _sliced(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args["self"]
    number = axis(call.args.get("dim", 0), x)
    if len(x[number]) == call.shape[number]:
        return [x]
    known.atoms.fix(x[number])
    return [(*x[:number], np.zeros(call.shape[number], np.int64), *x[number + 1 :])]


def _indexed(known: Known, call: Call) -> Sequence[Dims]:
    """Entries by their numbers along some dimensions, which stay. What the numbers are arranged as comes in their
    place, or first where the dimensions lie apart."""
    x, given = call.args["self"], list(call.args["indices"])
    numbers = [at for at, index in enumerate(given) if index is not None]
    if not numbers or any(not isinstance(given[at], tuple) for at in numbers):
        raise Unknown
    known.atoms.fix(*(x[at] for at in numbers), *(labels for at in numbers for labels in given[at]))
    arranged = known.fixed(np.broadcast_shapes(*(shape_of(given[at]) for at in numbers)))
    rest = [labels for at, labels in enumerate(x) if at not in numbers]
    at = numbers[0] if numbers[-1] - numbers[0] == len(numbers) - 1 else 0
    return [(*rest[:at], *arranged, *rest[at:])]


def _selected(known: Known, call: Call) -> Sequence[Dims]:
    """Positions along one dimension by their numbers: it stays."""
    x, index = call.args["self"], call.args["index"]
    number = axis(call.args["dim"], x)
    known.atoms.fix(x[number], *index)
    return [(*x[:number], np.zeros(call.shape[number], np.int64), *x[number + 1 :])]


def _windows(known: Known, call: Call) -> Sequence[Dims]:
    """Windows along one dimension, which stays; their entries come last."""
    x, number = call.args["self"], axis(call.args["dimension"], call.args["self"])
    known.atoms.fix(x[number])
    fixed = known.fixed((call.shape[number], call.shape[-1]))
    return [(*x[:number], fixed[0], *x[number + 1 :], fixed[1])]


def _columns(known: Known, call: Call) -> Sequence[Dims]:
    """Windows of pictures as columns: all places of a window for each channel; or columns put back."""
    x = call.args["self"]
    if call.name == "im2col":
        known.atoms.fix(*x[2:])
        many = known.atoms.new(call.shape[1])
        known.atoms.product(many, (x[1], np.zeros(call.shape[1] // len(x[1]), np.int64)))
        return [(x[0], many, *known.fixed(call.shape[2:]))]
    channels = known.atoms.new(call.shape[1])
    known.atoms.product(x[1], (channels, np.zeros(len(x[1]) // len(channels), np.int64)))
    known.atoms.fix(*x[2:])
    return [(x[0], channels, *known.fixed(call.shape[2:]))]


def _shuffled(known: Known, call: Call) -> Sequence[Dims]:
    """Channels to places of pictures, so many of each that is left, and back."""
    x = call.args["self"]
    known.atoms.fix(*x[-2:])
    made = known.atoms.new(call.shape[-3])
    flat, channels = (x[-3], made) if call.name == "pixel_shuffle" else (made, x[-3])
    known.atoms.product(flat, (channels, np.zeros(len(flat) // len(channels), np.int64)))
    return [(*x[:-3], made, *known.fixed(call.shape[-2:]))]


def _whole(known: Known, call: Call) -> Sequence[Dims]:
    """Entries are taken or put by numbers that may be any: all stays."""
    known.atoms.fix(*(labels for value in call.args.values() for dims in _tensors(value) for labels in dims))
    return _made(known, call)


def _glu(known: Known, call: Call) -> Sequence[Dims]:
    """The first half of a dimension, gated by the second: the same goes from both."""
    x = call.args["self"]
    number = axis(call.args.get("dim", -1), x)
    half = len(x[number]) // 2
    return [(*x[:number], known.join(x[number][:half], x[number][half:]), *x[number + 1 :])]


def _nothing(known: Known, call: Call) -> Sequence[Dims]:
    """What only looks whether all is well."""
    return []


def _squeezed(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args["self"]
    gone = call.args.get("dim")
    numbers = range(len(x)) if gone is None else [axis(one, x) for one in ([gone] if isinstance(gone, int) else gone)]
    return [tuple(labels for at, labels in enumerate(x) if at not in numbers or len(labels) != 1)]


def _unsqueezed(known: Known, call: Call) -> Sequence[Dims]:
    x = list(call.args["self"])
    x.insert(axis(call.args["dim"], [*x, None]), np.zeros(1, np.int64))
    return [tuple(x)]


def _padded(known: Known, call: Call) -> Sequence[Dims]:
    """Around pictures; around channels too, where what is put there may go as channels do."""
    x, pad = list(call.args.get("self", call.args.get("input"))), call.args["pad"]
    for number in range(len(pad) // 2):
        before, after = pad[2 * number : 2 * number + 2]
        at = len(x) - 1 - number
        if (before, after) == (0, 0):
            continue
        if number < len(x) - 2 or min(before, after) < 0:
            known.atoms.fix(x[at])
            x[at] = np.zeros(call.shape[at], np.int64)
            continue
        sides = known.atoms.new(before), known.atoms.new(after)
        known.sizes += [(len(side), side) for side in sides if len(side)]
        x[at] = np.concatenate([sides[0], x[at], sides[1]])
    return [tuple(x)]


def _made(known: Known, call: Call) -> Sequence[Dims]:
    """A tensor that is made of no other's entries."""
    return [known.fixed(shape) for shape in call.shapes]


def _filled(known: Known, call: Call) -> Sequence[Dims]:
    """A tensor of a shape like another's, without its entries."""
    x = call.args.get("self")
    return [x] if x is not None and shape_of(x) == call.shape else _made(known, call)


_ENTRIES = """add sub mul div rsub pow neg abs exp log sqrt rsqrt reciprocal square sin cos sign relu relu6 gelu silu
    sigmoid tanh hardtanh hardsigmoid hardswish leaky_relu elu celu selu mish softplus softsign logsigmoid erf clamp
    clamp_min clamp_max dropout feature_dropout alpha_dropout clone contiguous to _to_copy alias detach detach_ copy
    lift_fresh_copy lift_fresh maximum minimum where type_as float masked_fill eq ne lt le gt ge logical_not
    logical_and logical_or bitwise_not hardshrink addcmul addcdiv lerp bernoulli bitwise_and bitwise_or floor round
    true_divide threshold rrelu cast nan_to_num fill zero
    __and __or __xor bitwise_xor logical_xor fmod remainder sinh cosh tan atan expm1 log1p log2 isnan isinf xlogy"""
_PLACES = """max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    _adaptive_avg_pool2d upsample_bilinear2d upsample_nearest2d upsample_bicubic2d upsample_nearest1d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa upsample_linear1d reflection_pad2d replication_pad2d lp_pool2d"""
_RULES: tuple[tuple[Rule, str], ...] = (
    (_same, _ENTRIES),
    (_spatial, _PLACES),
    (_convolution, "conv1d conv2d conv3d"),
    (_transposed, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    (_linear, "linear"),
    (_addmm, "addmm"),
    (_product, "matmul mm bmm"),
    (_attention, "scaled_dot_product_attention"),
    (_einsum, "einsum"),
    (_embedding, "embedding"),
    (_batch_norm, "batch_norm instance_norm _native_batch_norm_legit_no_training"),
    (_layer_norm, "layer_norm rms_norm"),
    (_group_norm, "group_norm"),
    (_prelu, "prelu"),
    (_reduced, "mean sum amax amin max min var std var_mean norm linalg_vector_norm logsumexp prod any all argmax"),
    (_along, "softmax log_softmax _softmax cumsum sort flip roll"),
    (_permuted, "permute"),
    (_transpose, "transpose t swapaxes swapdims"),
    (_seen, "view reshape flatten unflatten _unsafe_view"),
    (_expanded, "expand expand_as broadcast_to"),
    (_repeated, "repeat"),
    (_each_repeated, "repeat_interleave"),
    (_concatenated, "cat concat"),
    (_stacked, "stack"),
    (_chunks, "chunk split split_with_sizes tensor_split"),
    (_unbound, "unbind select"),
    (_sliced, "slice narrow"),
    (_indexed, "index"),
    (_selected, "index_select"),
    (_windows, "unfold"),
    (_columns, "im2col col2im"),
    (_shuffled, "pixel_shuffle pixel_unshuffle"),
    (_whole, "gather scatter scatter_add index_put index_add index_copy masked_select topk argsort one_hot"),
    (_glu, "glu"),
    (_nothing, "_assert_tensor_metadata _assert_async _assert_scalar"),
    (_squeezed, "squeeze"),
    (_unsqueezed, "unsqueeze"),
    (_padded, "pad constant_pad_nd"),
    (_made, "zeros ones full arange empty scalar_tensor linspace eye rand randn"),
    (_filled, "zeros_like ones_like full_like empty_like new_zeros new_ones new_full rand_like new_empty"),
)
RULES: dict[str, Rule] = {name: rule for rule, names in _RULES for name in names.split()}
"""By the operation's name, without the underscore of those that change their input."""
