"""Room: how many workers fit, and how lanes share them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualprune.cluster.capacity import Shape, fits, shares


@pytest.mark.parametrize(
    ("there", "worker", "count"),
    [
        ([], {"CPU": 1.0}, 0),
        ([{"CPU": 4.0}], {"CPU": 1.0}, 4),
        ([{"CPU": 3.0}, {"CPU": 3.0}], {"CPU": 2.0}, 2),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], {"CPU": 1.0, "GPU": 1.0}, 2),
        ([{"CPU": 1.0, "GPU": 4.0}], {"CPU": 0.5, "GPU": 1.0}, 2),
        ([{"GPU": 4.0}], {"CPU": 1.0}, 0),
    ],
)
def test_each_worker_is_on_one_machine(there: list[dict[str, float]], worker: dict[str, float], count: int) -> None:
    """What is left over on two machines does not add up to a worker."""
    assert fits(there, worker) == count


@given(free=st.integers(0, 50), waiting=st.integers(0, 20), least=st.integers(1, 6), more=st.integers(0, 6))
def test_shares(free: int, waiting: int, least: int, more: int) -> None:
    """As many lanes as can be, none too small or too large, none wasted that could be used, as equal as can be."""
    shape = Shape(least, least + more, 1, 0)
    sizes = shares(free, waiting, shape)
    assert len(sizes) == min(waiting, free // least)
    assert all(shape.least <= size <= shape.most for size in sizes)
    assert sum(sizes) == min(free, len(sizes) * shape.most)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


def test_shape() -> None:
    """GPUs are asked for where there are some."""
    assert Shape(1, 2, 0.5, 0).worker == {"CPU": 0.5}
    assert Shape(1, 2, 1, 0.25).worker == {"CPU": 1, "GPU": 0.25}
    assert Shape(1, 2, 1, 0).elastic
    assert not Shape(2, 2, 1, 0).elastic
