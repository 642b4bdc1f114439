"""Rules for the same entries in another shape or order, and for parts and wholes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from dualprune.stages.coupling.atoms import Dims, Labels
from dualprune.stages.coupling.known import Call, Known, Unknown, axis, shape_of, tensors


def permuted(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args["self"]
    return [tuple(x[axis(one, x)] for one in call.args["dims"])]


def transpose(known: Known, call: Call) -> Sequence[Dims]:
    x = list(call.args["self"])
    if len(x) > 1:
        one, other = (
            axis(call.args.get(first, call.args.get(second, default)), x)
            for first, second, default in (("dim0", "axis0", 0), ("dim1", "axis1", 1))
        )
        x[one], x[other] = x[other], x[one]
    return [tuple(x)]


def seen(known: Known, call: Call) -> Sequence[Dims]:
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


def expanded(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args.get("self", call.args.get("input"))
    padded = (*known.fixed((1,) * (len(call.shape) - len(x))), *x)
    dims = tuple(
        labels if len(labels) == size else known.atoms.new(size)
        for labels, size in zip(padded, call.shape, strict=True)
    )
    known.sizes += [(len(labels), labels) for labels in dims]
    return [dims]


def repeated(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args["self"]
    padded = (*known.fixed((1,) * (len(call.shape) - len(x))), *x)
    return [tuple(np.tile(labels, n) for labels, n in zip(padded, call.args["repeats"], strict=True))]


def each_repeated(known: Known, call: Call) -> Sequence[Dims]:
    """Each position several times in turn, as of the keys and values that several heads share."""
    x, number = list(call.args["self"]), call.args.get("dim")
    if not isinstance(call.args["repeats"], int) or number is None:
        raise Unknown
    x[axis(number, x)] = np.repeat(x[axis(number, x)], call.args["repeats"])
    return [tuple(x)]


def concatenated(known: Known, call: Call) -> Sequence[Dims]:
    given = tensors(call.args["tensors"])
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


def stacked(known: Known, call: Call) -> Sequence[Dims]:
    given = tensors(call.args["tensors"])
    dims = [_all(known, [one[at] for one in given]) for at in range(len(given[0]))]
    number = axis(call.args.get("dim", 0), [*dims, None])
    dims.insert(number, np.zeros(len(given), np.int64))
    return [tuple(dims)]


def chunks(known: Known, call: Call) -> Sequence[Dims]:
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


def unbound(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args["self"]
    number = axis(call.args.get("dim", 0), x)
    known.atoms.fix(x[number])
    return [(*x[:number], *x[number + 1 :])] * len(call.shapes)


def sliced(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args["self"]
    number = axis(call.args.get("dim", 0), x)
    if len(x[number]) == call.shape[number]:
        return [x]
    known.atoms.fix(x[number])
    return [(*x[:number], np.zeros(call.shape[number], np.int64), *x[number + 1 :])]


def indexed(known: Known, call: Call) -> Sequence[Dims]:
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


def selected(known: Known, call: Call) -> Sequence[Dims]:
    """Positions along one dimension by their numbers: it stays."""
    x, index = call.args["self"], call.args["index"]
    number = axis(call.args["dim"], x)
    known.atoms.fix(x[number], *index)
    return [(*x[:number], np.zeros(call.shape[number], np.int64), *x[number + 1 :])]


def windows(known: Known, call: Call) -> Sequence[Dims]:
    """Windows along one dimension, which stays; their entries come last."""
    x, number = call.args["self"], axis(call.args["dimension"], call.args["self"])
    known.atoms.fix(x[number])
    fixed = known.fixed((call.shape[number], call.shape[-1]))
    return [(*x[:number], fixed[0], *x[number + 1 :], fixed[1])]


def columns(known: Known, call: Call) -> Sequence[Dims]:
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


def shuffled(known: Known, call: Call) -> Sequence[Dims]:
    """Channels to places of pictures, so many of each that is left, and back."""
    x = call.args["self"]
    known.atoms.fix(*x[-2:])
    made = known.atoms.new(call.shape[-3])
    flat, channels = (x[-3], made) if call.name == "pixel_shuffle" else (made, x[-3])
    known.atoms.product(flat, (channels, np.zeros(len(flat) // len(channels), np.int64)))
    return [(*x[:-3], made, *known.fixed(call.shape[-2:]))]


def squeezed(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args["self"]
    gone = call.args.get("dim")
    numbers = range(len(x)) if gone is None else [axis(one, x) for one in ([gone] if isinstance(gone, int) else gone)]
    return [tuple(labels for at, labels in enumerate(x) if at not in numbers or len(labels) != 1)]


def unsqueezed(known: Known, call: Call) -> Sequence[Dims]:
    x = list(call.args["self"])
    x.insert(axis(call.args["dim"], [*x, None]), np.zeros(1, np.int64))
    return [tuple(x)]


def padded(known: Known, call: Call) -> Sequence[Dims]:
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
