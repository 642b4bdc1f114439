"""Networks by name: our own, those of libraries, and users'.

    resnet20                     a line of `stages.networks.builtin.MODELS`
    torchvision:convnext_tiny    a classification network of torchvision
    timm:resnet50d               of timm (`pip install dualprune[timm]`)
    transformers:BertModel       a class of transformers (`pip install dualprune[text]`), of a configuration
    mypkg.nets:small             a function or class of a user's own module

`classes` goes to those of the first three and to transformers' `num_labels`; a user's own gets its `args` alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from torch import nn

from dualprune.stages.files import source
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.networks.code import written_out
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import Model

Args = Mapping[str, Any]


def maker(settings: Model) -> Callable[[], nn.Module]:
    """What builds the network that the settings name. Raises SpecError where nothing does."""
    library, _, name = settings.name.rpartition(":")
    if settings.own is not None:
        return _own(settings)
    if library:
        return MAKERS[library](name, settings)
    if name not in MODELS:
        known = ", ".join(sorted(MODELS))
        others = f"{', '.join(f'{one}:NAME' for one in MAKERS)}, or package.module:function of your own"
        raise _unknown(f"there is no model {name!r}; there are {known}; and {others}")
    return lambda: MODELS[name](settings.classes, **settings.args)


def _own(settings: Model) -> Callable[[], nn.Module]:
    try:
        function = source.load(settings.name)
    except source.SourceError as error:
        raise _unknown(str(error)) from error

    def make() -> nn.Module:
        network = function(**settings.args)
        if not isinstance(network, nn.Module):
            raise TypeError(f"{settings.name} returned {type(network).__name__}, and a torch.nn.Module is needed")
        return network

    return make


def _torchvision(name: str, settings: Model) -> Callable[[], nn.Module]:
    from torchvision import models

    _among(name, models.list_models(module=models), "torchvision", "classification network")
    return lambda: models.get_model(name, weights=None, num_classes=settings.classes, **settings.args)


def _timm(name: str, settings: Model) -> Callable[[], nn.Module]:
    timm = _library("timm", "timm")
    _among(name, timm.list_models(), "timm", "network")

    def make() -> nn.Module:
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=settings.classes, **settings.args)
        return network

    return make


def _transformers(name: str, settings: Model) -> Callable[[], nn.Module]:
    """A class of transformers, given its configuration: `args`, over what `args.config` says where that is given."""
    transformers = _library("transformers", "text")
    kind = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module) and getattr(kind, "config_class", None)):
        there = [one for one in dir(transformers) if one.endswith(("Model", "Classification", "LM", "LMHeadModel"))]
        near = get_close_matches(name, there, n=4) or ["BertForSequenceClassification", "GPT2LMHeadModel"]
        raise _unknown(f"transformers has no network {name}; it has classes such as {', '.join(near)}")

    def make() -> nn.Module:
        args = dict(written_out(settings).args)
        config = args.pop("config", None)
        given = {"num_labels": settings.classes, **(config if isinstance(config, dict) else {}), **args}
        network: nn.Module = kind(kind.config_class.from_dict(given))  # type: ignore[attr-defined]
        return network

    return make


MAKERS: dict[str, Callable[[str, Model], Callable[[], nn.Module]]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
}
"""What makes a library's networks, by what stands before the colon. To add one: a function, a line, and its
name in `stages.settings.training.LIBRARIES`."""


def _library(name: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise _unknown(f"networks of {name} need it installed: pip install 'dualprune[{extra}]'") from None


def _among(name: str, there: list[str], library: str, what: str) -> None:
    if name not in there:
        near = get_close_matches(name, there, n=4)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; it has {len(there)}, such as {there[0]}"
        raise _unknown(f"{library} has no {what} {name!r}{hint}")


def _unknown(text: str) -> SpecError:
    return SpecError([(("model", "name"), text)])
