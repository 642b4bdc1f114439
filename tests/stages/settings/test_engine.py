"""How work is carried out: ZeRO stages, offloading, compiling."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dualprune.stages.settings.engine import Engine, needed


def test_what_zero_3_gathers_can_not_be_compiled() -> None:
    assert Engine(compile=True, zero=2).compile
    with pytest.raises(ValidationError, match="`compile` can't follow weights that ZeRO 3 gathers"):
        Engine(compile=True, zero=3)


@pytest.mark.parametrize(
    ("settings", "alone", "together"),
    [({}, 0, 0), ({"offload": True}, 1, 1), ({"zero": 0}, 0, 0), ({"zero": 1}, 1, 1), ({"zero": 3}, 3, 3)],
)
def test_one_worker_shards_nothing_unless_it_is_told(settings: dict[str, Any], alone: int, together: int) -> None:
    engine = Engine.model_validate(settings)
    assert [engine.stage(ranks, 1000, 1e6) for ranks in (1, 2, 8)] == [alone, together, together]
    assert engine.stage(1, 1000, 1.0) == alone


@pytest.mark.parametrize(
    ("settings", "stages"),
    [({}, [0, 1, 2, 3, 3]), ({"offload": True}, [1, 1, 2, 3, 3]), ({"compile": True}, [0, 1, 2, 2, 2])],
)
def test_workers_shard_what_does_not_fit(settings: dict[str, Any], stages: list[int]) -> None:
    """Into half of their memory: of 1,000 weights on four ranks 21, 12.25, 9.25 and 6.25 kB."""
    engine = Engine.model_validate(settings)
    assert [engine.stage(4, 1000, 2 * limit) for limit in (21e3, 20.9e3, 12.2e3, 9.2e3, 1.0)] == stages
    assert [needed(zero, 4) for zero in range(4)] == [21, 12.25, 9.25, 6.25]


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_only_what_is_sharded_can_be_offloaded(zero: int) -> None:
    assert Engine.model_validate({"zero": zero}).offload is False
    if zero:
        assert Engine.model_validate({"zero": zero, "offload": True}).offload is True
        return
    with pytest.raises(ValidationError, match="`offload` moves what ZeRO shards: it needs `zero` 1, 2 or 3"):
        Engine.model_validate({"zero": zero, "offload": True})


@pytest.mark.parametrize("zero", [True, 1.0, "1", 4, -1])
def test_a_zero_stage_is_a_number(zero: Any) -> None:
    with pytest.raises(ValidationError):
        Engine(zero=zero)
