"""Rules for what is done entry by entry, over places, or along a dimension."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from dualprune.stages.coupling.atoms import Dims, Labels
from dualprune.stages.coupling.known import Call, Known, Unknown, axis, shape_of, tensors


def same(known: Known, call: Call) -> Sequence[Dims]:
    """Entry by entry, of all tensors that it is given, which may be spread over one another."""
    given = [one for value in call.args.values() for one in tensors(value)]
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


def spatial(known: Known, call: Call) -> Sequence[Dims]:
    """Over the places of pictures or sequences: samples and channels stay as they are."""
    x = call.args.get("input", call.args.get("self"))
    kept = [labels for labels, size in zip(x[:2], call.shape[:2], strict=True) if len(labels) == size]
    if len(kept) != 2 or len(x) != len(call.shape) or len(x) < 3:
        raise Unknown
    known.atoms.fix(*x[2:])
    return [(*kept, *known.fixed(shape[2:])) for shape in call.shapes]


def reduced(known: Known, call: Call) -> Sequence[Dims]:
    x = call.args.get("self", call.args.get("input"))
    over = call.args.get("dim")
    if "other" in call.args:  # the smaller or larger of two tensors' entries
        return same(known, call)
    if over is None or over == []:
        over = list(range(len(x)))
    numbers = {axis(one, x) for one in ([over] if isinstance(over, int) else over)}
    known.atoms.fix(*(x[number] for number in numbers))
    keep = call.args.get("keepdim", False)
    dims = [known.fixed((1,))[0] if number in numbers else labels for number, labels in enumerate(x)]
    if not keep:
        dims = [labels for number, labels in enumerate(x) if number not in numbers]
    return [tuple(dims)] * len(call.shapes)


def along(known: Known, call: Call) -> Sequence[Dims]:
    """Something along one dimension, as softmax is: that stays whole."""
    x = call.args.get("self", call.args.get("input"))
    dims = call.args.get("dim", call.args.get("dims"))
    known.atoms.fix(*(x[axis(one, x)] for one in ([dims] if isinstance(dims, int) else dims)))
    return [x] * len(call.shapes)


def whole(known: Known, call: Call) -> Sequence[Dims]:
    """Entries are taken or put by numbers that may be any: all stays."""
    known.atoms.fix(*(labels for value in call.args.values() for dims in tensors(value) for labels in dims))
    return made(known, call)


def glu(known: Known, call: Call) -> Sequence[Dims]:
    """The first half of a dimension, gated by the second: the same goes from both."""
    x = call.args["self"]
    number = axis(call.args.get("dim", -1), x)
    half = len(x[number]) // 2
    return [(*x[:number], known.join(x[number][:half], x[number][half:]), *x[number + 1 :])]


def nothing(known: Known, call: Call) -> Sequence[Dims]:
    """What only looks whether all is well."""
    return []


def made(known: Known, call: Call) -> Sequence[Dims]:
    """A tensor that is made of no other's entries."""
    return [known.fixed(shape) for shape in call.shapes]


def filled(known: Known, call: Call) -> Sequence[Dims]:
    """A tensor of a shape like another's, without its entries."""
    x = call.args.get("self")
    return [x] if x is not None and shape_of(x) == call.shape else made(known, call)
