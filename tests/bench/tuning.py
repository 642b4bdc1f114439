"""An honest search: settings of one stage by successive halving, chosen on validation; test is told of the chosen one.

    python -m tests.bench.tuning digits prune-4x --try admm.rho=0.01,0.03 --try retrain.lr=0.001,0.002 \\
        --rounds retrain.epochs=2,4,8 --inline

All combinations of `--try` are stages of one run, each from the stage's own parent. After each round the better half
of them goes on to the next one, from the same parent, with the values of `--rounds` that are next (Jamieson and
Talwalkar 2016); the last round's best is chosen. Stages are kept in the configuration's store: the same search again
trains nothing, and a longer one only what it has not tried.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dualprune
from dualprune.pipeline.choices.base import Option, worth
from dualprune.pipeline.config import load, overrides
from dualprune.pipeline.config.yamlfile import scalar
from dualprune.pipeline.library import StageResult
from dualprune.pipeline.plan import make as planning
from dualprune.stages.objectives.measures import Measures
from tests.bench.common import Options, Row, machine, report

Given = Mapping[str, Any]
"""Values by the place of a setting in the stage."""


@dataclass(frozen=True)
class Search:
    """What a search is of."""

    raw: Mapping[str, Any]
    """The configuration, as a file would say it."""
    stage: str
    """The entry whose settings are tried."""
    before: tuple[str, ...]
    """The stages that it needs."""
    measures: Measures
    """How good its network is said to be."""


@dataclass(frozen=True)
class Found:
    """What a search ends with."""

    rows: list[Row]
    """Each candidate of each round: its settings and what it was worth on validation."""
    settings: Given
    """The chosen one's, with those of the last round."""
    metrics: Mapping[str, Any]
    """The chosen one's, test among them."""


def of(config: str, stage: str, sets: Sequence[str] = ()) -> Search:
    """A search over a stage's settings. Raises ConfigError, and ValueError for a stage that is no entry of its own."""
    _, plan = planning.make(*load.load(config, list(sets)))
    raw, _ = load.parsed(config, list(sets))
    if not any(entry.get("name") == stage and not {"ladder", "beam"} & set(entry) for entry in raw["stages"]):
        raise ValueError(f"{config} has no entry {stage!r} that is a single stage; ladders and beams are several")
    nodes = {planned.node.name: planned.node for planned in plan}
    before, left = set(), list(nodes[stage].parents)
    while left:
        name = left.pop()
        before.add(name)
        left += nodes[name].parents
    return Search(raw, stage, tuple(name for name in nodes if name in before), nodes[stage].measures)


def values(text: str) -> tuple[str, list[Any]]:
    """`A.B=1,2` as a place and its values. Raises ValueError."""
    place, equals, several = text.partition("=")
    found = scalar(f"[{several}]") if equals else None
    if not place or not found:
        raise ValueError(f"{text!r} must read a.b=value,value")
    return place, found


def halved(search: Search, tries: Mapping[str, list[Any]], rounds: Mapping[str, list[Any]], inline: bool) -> Found:
    """Run a search. Raises ValueError for rounds of unequal number, RuntimeError where no candidate of a round is done,
    and as `dualprune.run`."""
    lengths = {len(several) for several in rounds.values()} or {1}
    if len(lengths) > 1:
        raise ValueError(f"--rounds has {sorted(lengths)} values; give each setting one for each round")
    left: list[Given] = [dict(zip(tries, chosen, strict=True)) for chosen in itertools.product(*tries.values())]
    rows: list[Row] = []
    for number in range(lengths.pop()):
        now = {place: several[number] for place, several in rounds.items()}
        results = _ran(search, [{**one, **now} for one in left], inline)
        metric = search.measures.of("val")
        order = sorted(  # among equals the first
            (place for place, result in enumerate(results) if result.state in ("done", "cached")),
            key=lambda place: -worth(metric, Option("", results[place].metrics, search.measures)),
        )
        if not order:
            raise RuntimeError(f"no candidate of round {number + 1} is done: {results[0].why}")
        going = order[: max(1, (len(left) + 1) // 2)]
        for place, (one, result) in enumerate(zip(left, results, strict=True)):
            told = {metric: result.metrics.get(metric, ""), "seconds": result.metrics.get("seconds", "")}
            rows.append({"round": number + 1, **one, **now, **told, "goes_on": "yes" if place in going else ""})
        best, chosen = results[order[0]], {**left[order[0]], **now}
        left = [left[place] for place in sorted(going)]
    return Found(rows, chosen, best.metrics)


def _ran(search: Search, candidates: Sequence[Given], inline: bool) -> list[StageResult]:
    """What came of the stage with each candidate's settings, all in one run."""
    raw = deepcopy(dict(search.raw))
    raw["name"] = f"{raw['name']}-tuning"
    entry = next(entry for entry in raw["stages"] if entry.get("name") == search.stage)
    names = [f"{search.stage}-try-{number}" for number, _ in enumerate(candidates, 1)]
    raw["stages"] = [*raw["stages"], *({**deepcopy(entry), "name": name} for name in names)]
    for name, settings in zip(names, candidates, strict=True):
        for place, value in settings.items():
            overrides.apply(raw, f"stages.{name}.{place}={json.dumps(value)}")
    found = dualprune.run(raw, only=[*search.before, *names], keep_going=True, inline=inline, quiet=True)
    return [found[name] for name in names]


def main() -> None:
    """Search, and print each round and the chosen one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("stage", metavar="STAGE")
    parser.add_argument("--try", dest="tries", action="append", required=True, metavar="A.B=X,Y")
    parser.add_argument("--rounds", action="append", default=[], metavar="A.B=X,Y", help="a value for each round")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--inline", action="store_true", help="train in this process, without Ray")
    parser.add_argument("--json", type=Path, metavar="PATH")
    asked = parser.parse_args()
    search = of(asked.config, asked.stage, asked.set)
    found = halved(search, dict(map(values, asked.tries)), dict(map(values, asked.rounds)), asked.inline)
    report(f"{asked.stage} of {asked.config}", found.rows, Options(quick=False, json=None))
    best = {name: found.metrics[search.measures.of(name)] for name in ("val", "test")}
    print(f"chosen: {dict(found.settings)}: " + ", ".join(f"{split} {value:.4g}" for split, value in best.items()))
    if asked.json is not None:
        told = {"rows": found.rows, "settings": dict(found.settings), **best, "machine": machine()}
        asked.json.write_text(json.dumps({"config": asked.config, "stage": asked.stage, **told}, indent=2))


if __name__ == "__main__":
    main()
