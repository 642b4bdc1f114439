"""What `dualprune plan` costs where every stage is done: time and memory of a process of its own.

    python -m tests.bench.planning [--quick] [--json PATH]

Artefacts have weights of 100 MB each (files with holes, which take no disk) and a manifest that lists 50 tensors. The
processor's time and the peak of resident memory are the whole command's, with the interpreter and all that it imports.

Then the same of a store in a bucket whose answers take 50 ms each (`tests/bucket.py`), within this process: loading the
file and planning.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from dualprune.pipeline.config.load import load, read
from dualprune.pipeline.node import Node
from dualprune.pipeline.plan import make as planning
from dualprune.stages.artefacts.manifest import MANIFEST, own_hash
from dualprune.stages.files.folder import Folder
from tests.bench.common import Row, options, report
from tests.bench.scale import configuration
from tests.bucket import Bucket

SIZES, QUICK = (500, 1_000, 2_000), (100, 500)
IN_BUCKET, QUICK_IN_BUCKET = (1_000, 10_000), (300,)
ANSWER = 0.05
"""Seconds."""
BYTES, TENSORS = 100 * 10**6, 50
PLAN = """
import sys, time
from dualprune.pipeline.cli.main import main
assert main(sys.argv[1:]) == 0
print(time.process_time(), next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
"""The command, and then what it took: processor seconds, and the most KB that were resident."""


def finished(store: Folder, node: Node, size: int = BYTES) -> None:
    """An artefact as far as a plan looks at it, with weights of so many bytes."""
    folder = store / node.key
    if folder.local:
        Path(folder.root).mkdir(exist_ok=True)
        with Path(folder.root, "model.safetensors").open("wb") as file:
            file.truncate(size)
    else:
        folder.write("model.safetensors", bytes(size))
    tensors = {
        f"layer{n}.0.conv1.weight": {"shape": [64, 64, 3, 3], "size": 36864, "nonzeros": 4096, "sets": ["cardinality"]}
        for n in range(TENSORS)
    }
    metrics = {"rate": 9.0, "weights": 36864 * TENSORS, "nonzeros": 4096 * TENSORS, "val_accuracy": 90.0}
    metrics |= {"test_accuracy": 90.0, "val_loss": 0.1, "test_loss": 0.1, "steps": 2, "seconds": 1.0}
    manifest = {
        "name": node.name,
        "kind": node.spec.kind,
        "key": node.key,
        "spec": node.spec.model_dump(mode="json"),
        "data": node.data_digest,
        "parents": [{"name": name, "key": "0" * 16} for name in node.parents],
        "tensors": tensors,
        "residuals": dict.fromkeys(tensors, 0.01),
        "metrics": metrics,
        "files": {"model.safetensors": {"sha256": "0" * 64, "bytes": size}},
        "world": 1,
        "engine": {},
    }
    manifest["sha256"] = own_hash(manifest)
    folder.write_json(MANIFEST, manifest)


def measured(folder: Path, size: int) -> Row:
    """One plan, of a store where all is done."""
    config, problems = load(str(configuration(folder, size)))
    store, plan = planning.make(config, problems)
    for planned in plan:
        finished(store.folder, planned.node)
    began = time.perf_counter()
    command = [sys.executable, "-c", PLAN, "plan", str(folder / "scale.yaml")]
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds = time.perf_counter() - began
    *_, used = shown.splitlines()
    assert shown.count(" cached ") == len(plan)
    processor, peak = (float(value) for value in used.split())
    return {"stages": len(plan), "seconds": seconds, "processor seconds": processor, "peak memory (MB)": peak / 1000}


def in_bucket(folder: Path, size: int) -> Row:
    """One plan of a store in a bucket where all is done."""
    path = configuration(folder, size)
    path.write_text(path.read_text().replace(f"store: {folder}/store", f"store: bucket://{uuid.uuid4().hex}/store"))
    store, plan = planning.make(*load(str(path)))
    for planned in plan:
        finished(store.folder, planned.node, 1)
    with Bucket.slow(ANSWER):
        began, processor = time.perf_counter(), time.process_time()
        draft = read(str(path))
        _, plan = planning.make(draft.sound(), draft.problems)
        row: Row = {"stages": len(plan), "seconds": time.perf_counter() - began}
        row |= {"processor seconds": time.process_time() - processor, "answers": Bucket.answers.total()}
    assert {planned.state for planned in plan} == {"cached"}
    return row | {"at a time, at most": Bucket.asking[1]}


def main() -> None:
    """Measure all sizes and report them."""
    asked = options(__doc__.splitlines()[0])
    found = []
    for size in QUICK if asked.quick else SIZES:
        with tempfile.TemporaryDirectory(prefix="dualprune-planning-") as folder:
            found.append(measured(Path(folder), size))
    report("`dualprune plan` of stages that are done", found, asked)
    found = []
    for size in QUICK_IN_BUCKET if asked.quick else IN_BUCKET:
        with tempfile.TemporaryDirectory(prefix="dualprune-planning-") as folder:
            found.append(in_bucket(Path(folder), size))
    report(f"The same, in a bucket that answers after {ANSWER * 1000:.0f} ms", found, asked.also("bucket"))


if __name__ == "__main__":
    main()
