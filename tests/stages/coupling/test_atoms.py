"""Positions that go together, and products, of which one factor's can go."""

from __future__ import annotations

import numpy as np
import pytest

from dualprune.stages.coupling.atoms import Atoms


def test_what_is_joined_is_one_atom() -> None:
    atoms = Atoms()
    a, b, c = atoms.new(3), atoms.new(3), atoms.new(3)
    atoms.join(a, b)
    atoms.join(b, c[::-1])
    assert atoms.roots(a).tolist() == atoms.roots(b).tolist() == atoms.roots(c).tolist()[::-1]
    assert len(set(atoms.roots(a).tolist())) == 3


def test_what_is_joined_with_what_stays_stays() -> None:
    atoms = Atoms()
    a, b = atoms.new(3), atoms.new(3)
    atoms.join(a, b)
    atoms.fix(b[:1])
    assert atoms.roots(a).tolist()[0] == 0
    assert atoms.live(a)
    atoms.fix(a)
    assert not atoms.live(b)


def test_dimensions_of_different_sizes_are_not_joined() -> None:
    atoms = Atoms()
    with pytest.raises(ValueError, match="zip"):
        atoms.join(atoms.new(2), atoms.new(3))


def test_of_a_product_the_factor_that_is_left_goes() -> None:
    """What was a dimension of 2 x 3, whose first is fixed: places 0 and 3 of it go together."""
    atoms = Atoms()
    flat, rows, columns = atoms.new(6), atoms.new(2), atoms.new(3)
    atoms.product(flat, (rows, columns))
    atoms.fix(rows)
    atoms.settle()
    assert atoms.roots(flat).tolist() == [*atoms.roots(columns).tolist()] * 2
    assert len(set(atoms.roots(flat).tolist())) == 3


def test_of_an_open_product_the_factor_of_most_atoms_goes() -> None:
    atoms = Atoms()
    flat, rows, columns = atoms.new(8), atoms.new(4), atoms.new(2)
    atoms.product(flat, (rows, columns))
    atoms.settle()
    assert not atoms.live(columns)
    assert atoms.roots(flat).tolist() == np.repeat(atoms.roots(rows), 2).tolist()


def test_nothing_of_a_product_goes_whose_numbers_are_fixed() -> None:
    atoms = Atoms()
    flat, rows, columns = atoms.new(6), atoms.new(2), atoms.new(3)
    atoms.product(flat, (rows, columns))
    atoms.fix(flat)
    atoms.settle()
    assert not atoms.live(rows)
    assert not atoms.live(columns)


def test_products_of_products_are_settled_together() -> None:
    """Heads of attention: 3 x heads x width are one dimension, heads x width another."""
    atoms = Atoms()
    flat, three, heads, width = atoms.new(24), atoms.new(3), atoms.new(4), atoms.new(2)
    atoms.product(flat, (three, heads, width))
    out = atoms.new(8)
    atoms.product(out, (heads, width))
    atoms.fix(three, width)
    atoms.settle()
    assert atoms.roots(out).tolist() == np.repeat(atoms.roots(heads), 2).tolist()
    assert atoms.roots(flat).tolist() == [*atoms.roots(out).tolist()] * 3


def test_a_product_that_is_none_is_refused() -> None:
    atoms = Atoms()
    with pytest.raises(ValueError, match=r"6 positions are no product of \[2, 2\]"):
        atoms.product(atoms.new(6), (atoms.new(2), atoms.new(2)))
