"""Which networks of libraries go through a stage: all classification networks of torchvision, one of each timm family.

    python -m tests.bench.coverage [--shrink] [--quick] [--json PATH]

With `--shrink` each is cut at random, and the compact network compared with the masked one, as Torch-Pruning does
beside it (`tests.bench.shrinking`). Pictures are small there where a network takes such.

Without it each is planned (built without memory, its patterns matched, one batch tried), then pruned by a stage as a
run does it: one training step with the ADMM term, one update of Z and U, the final projection, evaluation, the artefact
committed, loaded back and run. Pictures are two of noise, 224 x 224 or of the size that the network is made for.

Of a timm family it is the network of the fewest weights among the first that the library lists. A process that took
much memory is replaced (`tests.bench.apart`).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dualprune.stages.artefacts import artefact
from dualprune.stages.data.format import digest, read_manifest
from dualprune.stages.data.make.records import write_records
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.constrained import check
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.kinds.table import parse
from dualprune.stages.training.probe import probe
from dualprune.stages.training.stage import run_stage
from tests.bench.apart import rows
from tests.bench.common import Options, Row, report
from tests.bench.shrinking import cut_at_random

CANDIDATES = 24
"""Networks of a family that are built, without memory, to find the smallest."""
QUICK = (
    "torchvision:squeezenet1_1",
    "torchvision:googlenet",
    "torchvision:swin_t",
    "timm:resnet10t",
    "timm:vit_tiny_patch16_224",
)
SMALL = 224
"""Side of the pictures that each is tried with first, if it is made for larger ones."""
LARGEST = 250e6
"""Weights of a network that is trained, in some 6 GB; a larger one is planned only."""
PATIENCE = 1800
"""Seconds for a network, on a machine that does other things too."""


def torchvision_networks() -> Iterator[tuple[str, int]]:
    """Names, and sides of the pictures that the networks are made for."""
    from torchvision import models

    for name in models.list_models(module=models):
        weights = models.get_model_weights(name)
        side = weights.DEFAULT.transforms().crop_size[0] if list(weights) else 224
        yield f"torchvision:{name}", side


def timm_networks() -> Iterator[tuple[str, int]]:
    """The smallest of each family, and the side of its pictures."""
    import timm

    for family in timm.list_modules():
        sizes = {}
        for name in timm.list_models(module=family)[:CANDIDATES]:
            try:
                with torch.device("meta"):
                    network = timm.create_model(name, num_classes=10)
            except Exception:  # noqa: BLE001 - those are told of by the row of the one that is taken
                continue
            sizes[name] = sum(p.numel() for p in network.parameters())
        names = sorted(sizes, key=lambda one: sizes[one]) or timm.list_models(module=family)
        for name in names[:1]:
            made = timm.get_pretrained_cfg(name)
            yield f"timm:{name}", made.input_size[1] if made else 224


def covered(name: str, side: int) -> Row:
    """What came of one network: seconds, and the reason where it did not go through."""
    row: Row = {"network": name, "side": side, "weights": None, "seconds": None, "result": "ok"}
    began = time.perf_counter()
    # Many take pictures of any size, and smaller ones take less time.
    for size in sorted({min(SMALL, side), side}):
        with tempfile.TemporaryDirectory(prefix="dualprune-coverage-") as folder:
            try:
                row |= {"side": size, "result": "ok", **_through(name, size, Path(folder))}
                break
            except Exception as error:  # noqa: BLE001 - any is a row of the table
                row["result"] = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
    row["seconds"] = round(time.perf_counter() - began, 1)
    return row


def _through(name: str, side: int, folder: Path) -> Row:
    noise = np.random.default_rng(0)
    pictures = [{"x": noise.standard_normal((3, side, side), np.float32), "label": n} for n in range(2)]
    url = str(folder / "shards")
    write_records(url, "noise", {"train": pictures, "val": pictures[:1], "test": pictures[1:]})
    manifest = read_manifest(url)
    spec = parse(
        {
            "kind": "prune",
            "model": {"name": name, "classes": 10},
            "data": {"shards": url},
            "objective": {"name": "classify", "args": {"inputs": ["x"]}},
            "batch": 2,
            "constraints": [{"set": "cardinality", "tensors": "*", "rate": 4, "scope": "global"}],
            "admm": {"updates": 1, "lr": 1e-5, "rho": 1e-3},
            "retrain": {"epochs": 0, "lr": 1e-5},
        }
    )
    room = check(spec)
    probe(spec, manifest)
    size = sum(room.sizes.values())
    found: Row = {"weights": size, "tensors": len(room.kinds)}
    if size > LARGEST:
        return found | {"result": "planned only: too large for this machine"}
    Folder(str(folder / "store")).establish()
    job = StageJob(
        name="net", key="net", store=str(folder / "store"), spec=spec, shards=url, data_digest=digest(manifest)
    )
    done = run_stage(job, lambda event: None)
    assert done is not None
    rate = sum(room.sizes[of] for of in room.kinds) / done["metrics"]["nonzeros"]
    loaded = artefact.load(Folder(job.store) / "net")
    network = artefact.network(loaded)
    with torch.no_grad():
        outputs = network(torch.from_numpy(pictures[0]["x"])[None])
    if not bool(outputs.isfinite().all()) or tuple(outputs.shape) != (1, 10):
        raise ValueError(f"the loaded network gives outputs of shape {tuple(outputs.shape)}, or no numbers")
    return found | {"rate": rate}


def asked() -> tuple[Options, bool]:
    """What the command line says, and whether networks are to be cut."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shrink", action="store_true", help="cut each network at random, and compare")
    parser.add_argument("--quick", action="store_true", help="a few networks")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the rows and the machine's facts there too")
    given = parser.parse_args()
    return Options(given.quick, given.json), given.shrink


def main() -> None:
    """Go through all networks and report them."""
    said, shrink = asked()
    networks = [*torchvision_networks(), *([] if said.quick else timm_networks())]
    if said.quick:
        networks = [
            (name, side)
            for name, side in [*networks, ("timm:resnet10t", 176), ("timm:vit_tiny_patch16_224", 224)]
            if name in QUICK
        ]
    done = list(rows(cut_at_random if shrink else covered, networks, PATIENCE))
    columns = list(dict.fromkeys(name for row in done for name in row))
    done = [{name: row.get(name) for name in columns} for row in done]
    word, what = ("exact", "are cut exactly") if shrink else ("ok", "go through a stage")
    counts = [
        f"{library}: {sum(row['result'] == word for row in of)} of {len(of)}"
        for library in ("torchvision", "timm")
        if (of := [row for row in done if row["network"].startswith(library)])
    ]
    report(f"Networks that {what} ({', '.join(counts)})", done, said)


if __name__ == "__main__":
    main()
