"""Why a stage is to run: what changed since the last plan of its run, which is left for the next one."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import dualprune
from dualprune.pipeline import dag
from dualprune.pipeline.config.schema import Top
from dualprune.pipeline.node import Node
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.store.store import Store
from dualprune.stages.settings.data import AROUND
from dualprune.stages.settings.training import StageSpec

UNFINISHED = "not finished yet"
"""Of a stage that was planned before as it is now."""


def why(node: Node, before: Mapping[str, Any] | None, plan: Mapping[str, Planned]) -> str:
    """What is different from `before`, the last plan's entry of this stage; `plan` has its parents."""
    parents = dict.fromkeys(node.parents)  # a teacher may be the parent too
    again = [parent for parent in parents if plan[parent].state != "cached"]
    if before is None:
        return "not run yet"
    if before.get("key") == node.key:  # another version may have had fewer settings to spell out
        return UNFINISHED
    reasons = dag.differences(before.get("spec", {}), _settings(node))
    reasons = [_told(reason) for reason in reasons]
    if before.get("data") != node.data_digest:
        reasons.append("its data changed")
    if before.get("method") != node.material["method"]:
        reasons.append("its method has a new version")
    if len(before.get("parents", [])) != len(node.parents):
        reasons.append("it has another parent")
    elif again and before.get("key") != node.key:
        reasons.append(f"its parent {', '.join(again)} runs again")
    elif before.get("parents") != node.material["parents"]:
        reasons.append(f"its parent {', '.join(parents)} is another one than before")
    return "; ".join(reasons) or UNFINISHED


def _told(difference: str) -> str:
    path = difference.partition(":")[0]
    for of, what in (("model.source", "network"), ("objective.source", "objective")):
        if path.endswith(of):
            return f"the code of its {what} changed"
    return f"changed {difference}"


def record(run: str, store: Store, plan: Sequence[Planned]) -> None:
    """Leave what was planned, for the next plan to say what has changed."""
    noted = {}
    for p in plan:
        done = {"done": True} if p.state == "cached" else {}
        noted[p.node.name] = {"key": p.node.key, **p.node.material, "spec": _settings(p.node), **done}
    store.note_plan(run, noted)


def begun(top: Top, plan: Sequence[Planned], wanted: Collection[str]) -> dict[str, Any]:
    """What a run's event log says as it begins: its settings and stages, which are `wanted`, and where it runs."""
    stages = {
        p.node.name: {
            "key": p.node.key,
            "kind": p.node.spec.kind,
            "parents": list(p.node.parents),
            "teacher": p.node.teacher,
            "data": p.node.data_digest,
            "spec": _settings(p.node),
            "state": p.state,
        }
        for p in plan
    }
    return {
        "run": top.name,
        "settings": top.model_dump(mode="json"),
        "stages": stages,
        "wanted": sorted(wanted),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": dualprune.__version__,
    }


def _settings(node: Node) -> dict[str, Any]:
    """All that a stage's key is made from, defaults spelt out: not where data and weights lie or how data is read."""
    where = {"data": AROUND, "model": {"weights"}}
    exclude: Any = where if isinstance(node.spec, StageSpec) else {"stage": where}
    found = node.spec.model_dump(mode="json", exclude=exclude)
    spec = dag.trained(node.spec)
    if spec is not None and spec.model.skip:
        (found if isinstance(node.spec, StageSpec) else found["stage"])["model"]["skip"] = list(spec.model.skip)
    return found
