"""What finished runs of one configuration gave under several seeds: mean and spread, as a Markdown table.

    dualprune run mnist_lenet5 --set seed=1 ...       for each seed, then
    python -m tests.bench.seeds mnist_lenet5 --seeds 0 1 2 [--set A.B=C] [--json PATH]

It trains nothing: it reads the artefacts, and says of which seeds a stage has none.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualprune.pipeline.config.load import load
from dualprune.pipeline.plan import make as planning
from dualprune.stages.kinds.table import parse, phases
from tests.bench.common import machine

Manifest = Mapping[str, Any]


def found(config: str, sets: Sequence[str], seeds: Sequence[int]) -> dict[str, dict[int, Manifest]]:
    """Manifests of finished stages by name and seed."""
    stages: dict[str, dict[int, Manifest]] = {}
    for seed in seeds:
        _, plan = planning.make(*load(config, [*sets, f"seed={seed}"]))
        for planned in plan:
            of = stages.setdefault(planned.node.name, {})
            if planned.manifest is not None:
                of[seed] = planned.manifest
    return stages


def summary(name: str, manifests: Mapping[int, Manifest]) -> dict[str, Any]:
    """One stage's row. Layers are the first seed's: under a global budget, seeds share it out differently."""
    first = next(iter(manifests.values()))
    storage = first["storage"] if first["kind"] == "quantize" else None
    return {
        "stage": name,
        "seeds": list(manifests),
        "layers": [tensor["nonzeros"] for tensor in first["tensors"].values()],
        "weights": first["metrics"]["nonzeros"],
        "rate": first["metrics"]["rate"],
        "val": [one["metrics"]["val_accuracy"] for one in manifests.values()],
        "test": [one["metrics"]["test_accuracy"] for one in manifests.values()],
        "data_bits": storage and storage["data_bits"],
        "data_rate": storage and storage["data_rate"],
        "total_bits": [one["storage"]["total_bits"] for one in manifests.values()] if storage else None,
        "total_rate": [one["storage"]["total_rate"] for one in manifests.values()] if storage else None,
        "minutes": statistics.mean(one["metrics"]["seconds"] for one in manifests.values()) / 60,
        "epochs": sum(stretch.epochs for stretch in phases(parse(first["spec"]))),
    }


def spread(values: Sequence[float]) -> str:
    """`mean ± standard deviation`, or the value alone."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def line(row: Mapping[str, Any]) -> str:
    """A row of the table."""
    layers = ", ".join(f"{count:,}" for count in row["layers"])
    bits = f"{row['data_bits']:,} ({row['data_rate']:,.0f}x)" if row["data_bits"] else ""
    total = ""
    if row["total_bits"]:
        total = f"{statistics.mean(row['total_bits']):,.0f} ({statistics.mean(row['total_rate']):,.0f}x)"
    cells = [
        f"`{row['stage']}`",
        f"{row['weights']:,} ({layers})",
        f"{row['rate']:.1f}x",
        spread(row["val"]),
        spread(row["test"]),
        str(len(row["seeds"])),
        bits,
        total,
        str(row["epochs"]),
        f"{row['minutes']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--json", type=Path, metavar="PATH")
    asked = parser.parse_args()
    stages = found(asked.config, asked.set, asked.seeds)
    rows = [summary(name, manifests) for name, manifests in stages.items() if manifests]
    heads = ["stage", "weights left (by layer)", "rate", "val %", "test %", "seeds"]
    heads += ["data bits", "with places", "epochs", "minutes"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(line(row))
    for name, manifests in stages.items():
        lacking = [str(seed) for seed in asked.seeds if seed not in manifests]
        if lacking:
            print(f"{name}: not finished for seed {', '.join(lacking)}")
    if asked.json is not None:
        asked.json.write_text(json.dumps({"config": asked.config, "rows": rows, "machine": machine()}, indent=2))


if __name__ == "__main__":
    main()
