"""A configuration to start from, for a network and data: with patterns that match its tensors, and comments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dualprune.pipeline.config import checks
from dualprune.pipeline.config.load import RECIPES, drafted, read
from dualprune.pipeline.config.problems import ConfigError, Problems, explained
from dualprune.pipeline.config.resolved import inline
from dualprune.pipeline.config.yamlfile import parse
from dualprune.stages.data.format import DataError, labels, pictures, read_manifest
from dualprune.stages.networks.build import parameters_of
from dualprune.stages.networks.parameters import Parameters, weights
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.data import BUILT_IN, Data
from dualprune.stages.settings.training import Model

FITTING = (([2, 4, 8], 16), ([2, 4, 8], 1), ([2, 4], 1), ([1.5], 1))
"""Rates, and weights of each tensor that stay in any case: those that the network has room for are taken."""
NAMED = 48
"""Characters for names of tensors, of each type of layers."""
TRAINED_ON = 1000
"""Classes of the weights that torchvision has."""
BY_FIELDS = ("classify", "multilabel", "regress", "tokens")
"""Objectives that are told which fields the network is called with."""
ABOUT = ("mean", "std", "shift", "flip")
"""Settings of data that recipes know of pictures."""
TEMPLATE = """\
# {model} on {data}.
# From {start} to {most}x by ADMM: a beginning; rates, epochs and learning rates are yours.
#
# What a setting means:  dualprune explain SETTING, such as stages.admm.rho
# Before a long run:     dualprune plan FILE; dualprune run FILE --smoke
name: {name}
store: ./runs                # artefacts by key; a folder, or a bucket's URL
cluster: {{workers: 1}}        # processes that share a stage; gpus: 1 gives each a GPU
model: {model_settings}
data: {data_settings}
{objective}batch: {batch}                    # samples a step, over all workers
optimizer: {{name: adam}}

stages:
  - name: dense
    kind: train
    train: {dense}

# What can be pruned, by types of layers, of {weights:,} weights:
{layers}
  - name: prune
    kind: prune
    parent: dense
    ladder: {rates}        # a stage for each rate, from the one before: prune-{least}x, ...
    constraints:
      # One budget over all, magnitudes in units of their layer's; {floor} of each tensor stay anyway.
      # For some alone: layers: TYPE, or tensors: PATTERN. What is held is listed by
      # `dualprune plan FILE --tensors`.
      - {{set: cardinality, tensors: "*", scope: global, scale: rms, floor: {floor}}}
    # The residual that is shown should end below 0.1; where it does not, raise rho or rho_growth.
    admm: {{updates: 6, epochs: 2, lr: 0.001, rho: 0.01, rho_growth: 1.5}}
    retrain: {{epochs: 8, lr: 0.001}}
"""


@dataclass(frozen=True)
class Wanted:
    """What a configuration is to be of."""

    model: str
    data: str
    """A source, or a folder or URL of shards."""
    args: dict[str, Any]
    """Of the network."""
    classes: int | None
    weights: str | None
    objective: str | None


def configuration(wanted: Wanted) -> str:
    """The text of a file, found to be sound. Raises ConfigError for what it can't be made of."""
    try:
        data, classes, split = _data(wanted.data)
        given: dict[str, Any] = {"name": wanted.model, **({"args": wanted.args} if wanted.args else {})}
        classes = wanted.classes or classes
        given |= {} if classes is None else {"classes": classes}
        parameters = parameters_of(Model.model_validate(given))
    except DataError as error:
        raise ConfigError("init", [f"--data: {error}"]) from None
    except SpecError as error:
        raise ConfigError("init", [f"--model: {text}" for _, text in error.problems]) from None
    except ValidationError as error:
        found = explained(error, Model)
        raise ConfigError("init", [f"{'.'.join(map(str, path))}: {text}" for path, text in found]) from None
    if not any(not one.embedding for one in weights(parameters).values()):
        raise ConfigError("init", [f"{wanted.model} has no weights that can be pruned but those of embeddings"])
    given |= _weights(wanted.weights, given)
    problems: list[str] = []
    for rates, floor in FITTING:
        text = _text(wanted, given, data, split, parameters, rates, floor)
        problems = _problems(text)
        if not problems:
            return text
    raise ConfigError("init", problems)


def _data(given: str) -> tuple[dict[str, Any], int | None, Mapping[str, Any]]:
    """Settings of data; how many classes there are, where that is known; of shards, what the training split is.
    Raises DataError."""
    if given in BUILT_IN:
        return {"source": given, **_known(given)}, 10, {}
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", given):
        return {"source": given}, None, {}
    manifest = read_manifest(given)
    found = {"shards": given}
    encoded = [shape for shape in pictures(manifest, Data.model_validate(found)).values() if shape[0] == 3]
    known = _known(None) if encoded else {}
    return {**found, **known}, labels(manifest), manifest["splits"]["train"]


def _objective(given: str | None, fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is trained for: where samples have fields and none is a picture, by those that there are."""
    if "image" in fields or not fields or (given is not None and given not in BY_FIELDS):
        return None if given is None else {"name": given}
    words = [name for name in fields if f"{name}_mask" in fields]
    name = given or ("tokens" if words else "classify" if "label" in fields else "regress")
    numbers = [name for name, one in fields.items() if name not in ("label", "target") and one["kind"] == "npy"]
    inputs = words[:1] if name == "tokens" else numbers
    return {"name": name, "args": {"inputs": inputs}} if inputs else {"name": name}


def _known(source: str | None) -> dict[str, Any]:
    """What the recipes that come along say of a source's pictures; None: of pictures in shards."""
    for file in sorted(RECIPES.glob("*.yaml")):
        data = read(file.stem).data.get(("data",))
        if data is not None and data.source == source:
            said = data.model_dump(mode="json", exclude_defaults=True)
            return {name: said[name] for name in ABOUT if name in said}
    return {}


def _weights(given: str | None, model: dict[str, Any]) -> dict[str, Any]:
    """Trained weights to start from: without the head, where that is of another size than torchvision's."""
    if given is None:
        return {}
    if given.partition(":")[0] != "torchvision" or model.get("classes", 10) == TRAINED_ON:
        return {"weights": given}
    return {"weights": {"file": given, "skip": _head(model)}}


def _head(model: dict[str, Any]) -> list[str]:
    """Patterns of the tensors whose shapes go by the number of classes."""
    classes = model.get("classes", 10)
    one, other = (parameters_of(Model.model_validate({**model, "classes": n})) for n in (classes, TRAINED_ON))
    names = [name for name in one if name in other and one[name].shape != other[name].shape]
    return list(dict.fromkeys(f"{name.rpartition('.')[0]}.*" for name in names))


def _problems(text: str) -> list[str]:
    """What is wrong with a file, as far as it can be told without its data."""
    raw, lines = parse(text, "init")
    problems = Problems("init", lines, {})
    draft = drafted(raw, problems)
    if not problems.found:
        checks.networks(draft.stages, problems)
    return problems.found


def _text(
    wanted: Wanted,
    model: dict[str, Any],
    data: dict[str, Any],
    split: Mapping[str, Any],
    parameters: Parameters,
    rates: Sequence[float],
    floor: int,
) -> str:
    whole = isinstance(model.get("weights"), str)
    objective = _objective(wanted.objective, split.get("fields", {}))
    return TEMPLATE.format(
        model=wanted.model,
        data=wanted.data,
        start="dense training" if model.get("weights") is None else "trained weights",
        most=f"{rates[-1]:g}",
        name=_name(wanted),
        model_settings=inline(model),
        data_settings=inline(data),
        objective="" if objective is None else f"objective: {_shown(objective)}\n",
        batch=min(64, int(split.get("samples", 64))),
        dense="{epochs: 0, lr: 0.001}          # the weights as they are" if whole else "{epochs: 20, lr: 0.001}",
        weights=sum(one.shape.numel() for one in weights(parameters).values()),
        layers="\n".join(_layers(parameters)),
        rates=list(rates),
        least=f"{rates[0]:g}",
        floor=floor,
    )


def _shown(objective: dict[str, Any]) -> str:
    return inline(objective) if "args" in objective else str(objective["name"])


def _layers(parameters: Parameters) -> Iterator[str]:
    """A line of comment for each type of layers whose weights can be pruned."""
    found: dict[tuple[str, bool], list[str]] = {}
    for name, one in weights(parameters).items():
        found.setdefault((one.layer, bool(one.embedding)), []).append(name)
    longest = max(len(layer) for layer, _ in found)
    for (layer, embedding), names in found.items():
        size = sum(parameters[name].shape.numel() for name in names)
        shown = ", ".join(names)
        shown = shown if len(shown) <= NAMED else f"{shown[:NAMED].rpartition(',')[0] or names[0]}, ..."
        only = "; only where named in full" if embedding else ""
        yield f"#   {layer:<{longest}}  {len(names):>3} of {size:>11,} weights: {shown}{only}"


def _name(wanted: Wanted) -> str:
    """A run's name of those of the network and the data."""
    network, data = (re.split("[:/]", given.rstrip("/"))[-1] for given in (wanted.model, wanted.data))
    return re.sub(r"[^A-Za-z0-9_-]+", "-", f"{network}-{data}").strip("-_") or "mine"
