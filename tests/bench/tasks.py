"""Tasks that are no classification of pictures, from dense to a tenth, each with its own metric, as its users would.

Tables (R2), sentences (accuracy), landmarks of faces by PIPNet's head (normalised mean error), transcription factors on
DNA (area under the ROC curve) and EfficientNet-lite0 of timm (accuracy; a fifth of its weights goes, without training).
The configurations are `tests/tasks/*/run.yaml` and recipes. DUALPRUNE_DATA names the folder of the data. What is done
is kept in `bench-tasks` here, so that the same command goes on where it was cut off; `--quick` does a few steps of
each stage.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.common import Row, options, report
from tests.running import Running, json_of

TASKS = Path(__file__).parent.parent / "tasks"
PLACE = Path("bench-tasks")


@dataclass(frozen=True)
class Stages:
    """What is compared: three stages of a run."""

    network: str
    dense: str = "dense"
    admm: str | None = "admm-10x"
    magnitude: str = "magnitude-10x"


@dataclass(frozen=True)
class Task:
    """A run, and what is shown of it."""

    name: str
    config: str
    metric: str
    stages: tuple[Stages, ...]
    sets: tuple[str, ...] = ()
    """`{root}`: the folder of the data; `{made}`: of what is made of it."""
    prepare: Callable[[Path, Path], None] | None = None
    """Makes shards and weights, from the first folder in the second."""


SHORT = (
    "stages.dense.train.epochs=10",
    *("stages.admm-10x.admm.epochs=3", "stages.admm-10x.retrain.epochs=12", "stages.magnitude-10x.retrain.epochs=30"),
)
"""Where the dense network has the best validation after few epochs."""


def _table(table: str, inputs: int, *more: str) -> Task:
    sets = (f"name={table}", f"data.args.table={table}", f"model.args.inputs={inputs}", *more)
    config, folder = str(TASKS / "regression/run.yaml"), "data.args.folder={root}/regression"
    return Task(table, config, "r2", (Stages("64-64 MLP"),), (folder, *sets))


def _sentences(root: Path, made: Path) -> None:
    """Shards of SST-2. The columns of its three files have not all the same names: hence the numbers."""
    vocabulary = root / "text/bert_vocab/vocab.txt"
    columns = ("--label", "1", "--columns", "2", "--tokenizer", str(vocabulary), "--length", "48")
    _called("shards", str(root / "text/sst2"), str(made / "sst2"), *columns)


def _pictures(root: Path, made: Path) -> None:
    """An index of the pictures, all of which are train and test; and weights under timm's names."""
    from tests.tasks.efficientnet.convert import convert

    every = root / "imagenet_sample/imagenet-sample-00000"
    parts = {"train": f"{every}*.tar", "val": f"{every}0.tar", "test": f"{every}*.tar"}
    splits = [word for split, place in parts.items() for word in ("--split", f"{split}={place}")]
    _called("index", str(root / "imagenet_sample"), str(made / "pictures"), *splits)
    convert(root / "weights/efficientnet_lite0.pth", made / "efficientnet_lite0.safetensors")


ALL = (
    Task("diabetes", "diabetes", "r2", (Stages("64-64 MLP"),), ("cluster.workers=1", "monitor.wandb=offline")),
    _table("concrete", 8),
    _table("energy", 8),
    _table("wine-quality-red", 11, *SHORT),
    Task(
        "dna",
        str(TASKS / "dna/run.yaml"),
        "auc",
        tuple(Stages(kind, kind, f"{kind}-admm-10x", f"{kind}-magnitude-10x") for kind in ("cnn", "lstm", "both")),
        ("data.args.folder={root}/dna",),
    ),
    Task("faces", str(TASKS / "faces/run.yaml"), "nme", (Stages("PIPNet"),), ("data.args.folder={root}/faces68",)),
    Task(
        "imagenet sample",
        str(TASKS / "efficientnet/run.yaml"),
        "accuracy",
        (Stages("EfficientNet-lite0", admm=None, magnitude="magnitude-1.25x"),),
        ("data.shards={made}/pictures", "model.weights={made}/efficientnet_lite0.safetensors"),
        _pictures,
    ),
    Task(
        "sst2",
        "sst2_minilm",
        "accuracy",
        (Stages("MiniLM-L6"),),
        (
            *("data.shards={made}/sst2", "model.weights.file={root}/weights/minilm_l6", "monitor.wandb=offline"),
            # A part of the recipe that a CPU core with bf16 does in half an hour.
            *("precision=bf16", "data.limit=3200", "stages.dense.data.limit=8000", "stages.dense.train.lr=0.0001"),
            # Adam moves a weight by no more than the rate in a step: few steps need a higher one to get it to zero.
            *("stages.admm-10x.admm.updates=2", "stages.admm-10x.admm.interval=20", "stages.admm-10x.admm.lr=0.0002"),
            *("stages.admm-10x.admm.rho=0.05", "stages.admm-10x.retrain.epochs=2"),
            "stages.magnitude-10x.retrain.epochs=4",
        ),
        _sentences,
    ),
)


def done(task: Task, root: Path, quick: bool) -> list[Row]:
    """The rows of a task, run to its end."""
    made = PLACE.absolute() / "made"
    made.mkdir(parents=True, exist_ok=True)
    if task.prepare is not None:
        task.prepare(root, made)
    sets = [f"store={PLACE.absolute() / 'runs'}", *(one.format(root=root, made=made) for one in task.sets)]
    lines = _called("run", task.config, "--json", *(["--smoke"] if quick else []), "--set", *sets)
    stages = {row["name"]: row for row in json_of(lines)["stages"]}
    return [_row(task, one, stages) for one in task.stages]


def _row(task: Task, shown: Stages, stages: dict[str, Any]) -> Row:
    row: Row = {"task": task.name, "network": shown.network, "metric": task.metric}
    for what in ("dense", "admm", "magnitude"):
        stage = stages.get(getattr(shown, what), {})
        for split in ("val", "test"):
            row[f"{what}_{split}"] = stage.get(f"{split}_{task.metric}", "-")
    return row


def _called(*arguments: str) -> list[str]:
    """What `dualprune` printed. Ends the program where it fails."""
    with Running(Path.cwd(), *arguments) as run:
        code, lines = run.end()
    if code:
        sys.exit("\n".join(lines))
    return lines


def main() -> None:
    """Run all tasks and report them."""
    asked = options(__doc__.splitlines()[0])
    root = os.environ.get("DUALPRUNE_DATA")
    if not root:
        sys.exit("DUALPRUNE_DATA is not set: it names a folder with the data of these tasks")
    rows = [row for task in ALL for row in done(task, Path(root), asked.quick)]
    report("From dense to a tenth (efficientnet: four fifths), on val and test", rows, asked)


if __name__ == "__main__":
    main()
