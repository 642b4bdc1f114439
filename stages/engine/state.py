"""ADMM's state of constrained tensors: what optimizers keep of it, and whole tensors by the solver's names for it.

A set whose projection keeps entries of V = W + U or zeroes them leaves Z = V and U = 0 where it keeps, Z = 0 and U = V
elsewhere. So the target Z - U is Z, or it is -U, and a bit an entry says which: 4 bytes and a bit in place of 8. The
mask is another bit of the same byte. Sets that change values keep U beside them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping

import torch
from torch import Tensor

STATE = ("target", "marks", "dual")
"""What optimizers keep: of penalised tensors Z - U, in fp32; of masked ones a byte an entry; of those whose set changes
values U, in fp32.

While values are tied, which is without a penalty, the target has the number of each entry's cluster (from 1 on, and 0
for those in none).
"""
DUAL, MASK = 1, 2
"""Bits of a mark: U is -target and not 0; the entry is trained, and not frozen: at zero if it was pruned, on its level
if it was quantised."""
PORTION = 1 << 18
"""Entries that a CPU works on at a time: few enough to stay in its cache."""


def portions(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of the same shape, on a CPU some rows of them at a time: what is made of a portion stays in its cache.

    A GPU takes them whole.
    """
    first = tensors[0]
    if first.device.type != "cpu" or first.numel() <= PORTION:
        yield tensors
        return
    rows = max(1, PORTION * len(first) // first.numel())
    yield from zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def masks(marks: Iterable[Tensor]) -> list[Tensor]:
    """1 where entries are trained and 0 where they are frozen, uint8, by their marks."""
    return [one >> 1 for one in marks]  # its highest bit: faster than taking the bit out


@torch.no_grad()
def divide(state: Mapping[str, Tensor], factor: float) -> None:
    """U / factor, in place, of what is kept of a tensor or of any part of it."""
    for target, marks, *dual in portions(*(state[key] for key in STATE if key in state)):
        if dual:
            z = target + dual[0]
            dual[0].div_(factor)
            torch.sub(z, dual[0], out=target)
        else:
            torch.where((marks & DUAL).bool(), target / factor, target, out=target)


class Whole(ABC):
    """Whole tensors of a network by name, with their state: `target`, `dual` and `mask`, or as `STATE` is kept.

    On all ranks together, in the same order; every rank gives and gets the same.
    """

    def __init__(self, penalised: Collection[str], valued: Collection[str]) -> None:
        """`penalised` names the tensors that have more than a mask, `valued` those of them whose set changes values."""
        self.penalised, self.valued = frozenset(penalised), frozenset(valued)
        self._odd: dict[str, tuple[Tensor, Tensor]] = {}
        """Of other tensors, entries at which neither Z nor U is 0, and their U: of a start from a parent's duals, until
        the first update. They are few."""

    @abstractmethod
    def seen(self, name: str, state: str | None = None) -> Tensor:
        """A whole parameter, or what is kept of its state, to be looked at until the next step or `write`: it may be no
        copy."""

    def read(self, name: str, state: str | None = None) -> Tensor:
        """The same as a new tensor on every rank."""
        return self.seen(name, state).clone()

    @abstractmethod
    def write(self, name: str, value: Tensor, state: str | None) -> None:
        """Put a whole tensor in the place of what `read` gives."""

    @abstractmethod
    def divide(self, factor: float) -> None:
        """U / factor, of this rank's part of all tensors."""

    def get(self, name: str, state: str | None = None) -> Tensor:
        """The whole parameter `name`, or its state `state`, as a new tensor on every rank."""
        if state == "mask":
            return (self.read(name, "marks") >> 1).float()
        if state != "dual" or name in self.valued:
            return self.read(name, state)
        target = self.seen(name, "target")  # once: it may have to be gathered
        u = torch.zeros_like(target)
        for own, aim, marks in portions(u, target, self.seen(name, "marks")):
            torch.where((marks & DUAL).bool(), -aim, own, out=own)
        if name in self._odd:
            places, values = self._odd[name]
            u = u.contiguous()
            u.view(-1)[places] = values
        return u

    def set(self, name: str, value: Tensor, state: str | None = None) -> None:
        """Put a whole tensor in the place of what `get` gives. U is told by the target: set that before it."""
        if state == "mask":
            mask = (value != 0).to(torch.uint8) * MASK
            self.write(name, mask | (self.seen(name, "marks").to(mask.device) & DUAL), "marks")
        elif state == "dual" and name not in self.valued:
            self._mark(name, value)
        else:
            self.write(name, value, state)

    def _mark(self, name: str, u: Tensor) -> None:
        """Keep what U is beside the target, by a bit an entry; and aside, where that is not all."""
        marks, target = self.read(name, "marks").to(u.device), self.seen(name, "target").to(u.device)
        odd, begin = [], 0
        for own, aim, dual in portions(marks, target, u):
            there = dual != 0
            own.bitwise_and_(MASK).bitwise_or_(there)
            odd.append((there & (aim != -dual)).flatten().nonzero().squeeze(1) + begin)
            begin += dual.numel()
        self.write(name, marks, "marks")
        self._odd.pop(name, None)
        places = torch.cat(odd)
        if len(places):
            self._odd[name] = places, u.flatten()[places]

    def rescale(self, factor: float) -> None:
        """U / factor, where Z stays: of all penalised tensors. Each rank divides its own part; nothing is gathered."""
        odd = [(name, self.get(name, "target"), self.get(name, "dual")) for name in self._odd]
        self.divide(factor)
        for name, target, u in odd:
            self.set(name, target + u - u / factor, "target")
            self.set(name, u / factor, "dual")

    def kept(self, name: str) -> list[str]:
        """The states by which `restore` can put back all of a tensor's."""
        if name not in self.penalised:
            return ["marks"]
        return ["target", "marks", *(["dual"] if name in self.valued or name in self._odd else [])]

    def restore(self, name: str, values: Mapping[str, Tensor]) -> None:
        """Put back a tensor's states by what they are called: as they are kept, or as `get` and `set` call them."""
        self._odd.pop(name, None)
        for key in ("target", "marks", "mask", "dual"):
            if key in values and (name in self.penalised or key in ("marks", "mask")):
                self.set(name, values[key], key)
