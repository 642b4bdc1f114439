"""What a stage is measured by, as people and programs are told it: by the objective's best metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dualprune.stages.objectives.measures import CLASSIFY, Measures

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SPLITS = ("val", "test")


def validated(metrics: Mapping[str, Any], best: str, unit: str) -> str:
    """What a stage does on validation, of its metrics or an epoch's row; in percent, accuracy goes without its name."""
    value = metrics.get(f"val_{best}")
    if value is None:
        return "not validated"
    return f"val {named(value, best, unit)}"


def named(value: float, best: str, unit: str) -> str:
    """A metric's value with its name and unit."""
    name = "" if best == CLASSIFY.best else f"{best.replace('_', ' ')} "
    return f"{name}{number(value, unit)}{f' {unit}' if unit else ''}"


def number(value: float | None, unit: str) -> str:
    """The same without both: two decimals of percents, four digits of others."""
    return "-" if value is None else f"{value:{'.2f' if unit == '%' else '.4g'}}"


def titles(rows: Iterable[Measures | None]) -> tuple[str, ...]:
    """A table's titles of what was measured on each split: with name and unit, where all rows have the same."""
    found = {(one.best, one.unit) for one in rows if one is not None} or {(CLASSIFY.best, CLASSIFY.unit)}
    if len(found) > 1:
        return SPLITS
    ((best, unit),) = found
    above = "" if best == CLASSIFY.best else f"{best.replace('_', ' ')}\n"
    return tuple(f"{above}{split} {unit}".rstrip() for split in SPLITS)


def cell(value: float | None, of: Measures | None, title: str) -> str:
    """What stands below a title: with name and unit, where other rows have others."""
    if value is None or of is None:
        return "-"
    return named(value, of.best, of.unit) if title in SPLITS else number(value, of.unit)


def as_json(row: DataclassInstance, of: Measures | None) -> dict[str, Any]:
    """A row's fields, `val` and `test` by their metric's name; without them where that is not known."""
    fields = {name: value for name, value in asdict(row).items() if name != "measures"}
    names = {split: of.of(split) for split in SPLITS} if of is not None else {}
    return {names.get(name, name): value for name, value in fields.items() if name in names or name not in SPLITS}
