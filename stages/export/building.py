"""How a network is built that has no file of its own: code for those who have its weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dualprune.stages.networks.builtin import TORCHVISION
from dualprune.stages.networks.code import written_out
from dualprune.stages.settings.training import Model


class Building(NamedTuple):
    """Code that builds a network, if there is such code, and a sentence on what it needs."""

    code: str | None
    needs: str


def building(manifest: Mapping[str, Any]) -> Building:
    """How the network of a manifest is built before it gets its weights."""
    model = Model(**manifest["spec"]["model"])
    if manifest.get("structure", {}).get("edits"):
        text = "Its shape was changed after it was built, which `dualprune.load` does from the artefact's folder; "
        return Building(None, f"{text}the format `torch-export` holds the whole network.")
    library, _, name = model.name.rpartition(":")
    more = "".join(f", {key}={value!r}" for key, value in model.args.items())
    if model.own is not None:
        given = more.removeprefix(", ")
        code = f"from {library} import {name}\n\nnetwork = {name}({given})"
        return Building(
            code, f"The module `{library}` is its author's own: it has to be where Python looks for modules."
        )
    if library == "torchvision" or (not library and name in TORCHVISION):
        made = f"network = get_model({name!r}, num_classes={model.classes}{more})"
        code = f"from torchvision.models import get_model\n\n{made}"
        return Building(code, "It is a network of torchvision.")
    if library == "timm":
        code = f"import timm\n\nnetwork = timm.create_model({name!r}, num_classes={model.classes}{more})"
        return Building(code, "It is a network of timm.")
    if library == "transformers":
        return Building(_transformers(name, model), "It is a network of transformers.")
    code = f"from dualprune.stages.networks.builtin import MODELS\n\nnetwork = MODELS[{name!r}]({model.classes}{more})"
    text = "It is a network of dualprune's, which has to be installed; the format `torch-export` needs torch alone."
    return Building(code, text)


def _transformers(name: str, model: Model) -> str:
    args = dict(written_out(model).args)
    config = args.pop("config", None)
    given = {"num_labels": model.classes, **(config if isinstance(config, dict) else {}), **args}
    return f"from transformers import {name}\n\nnetwork = {name}({name}.config_class.from_dict({given!r}))"
