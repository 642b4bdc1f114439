"""`dualprune init`: a configuration to start from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from dualprune.pipeline.config.problems import ConfigError
from dualprune.pipeline.config.yamlfile import scalar
from dualprune.pipeline.output import DONE, say
from dualprune.stages.files import source


def add(verbs: Any) -> None:
    """Add the verb to a parser's."""
    text = "write a commented configuration for a network and data, to start from"
    verb = verbs.add_parser("init", help=text, description=text)
    text = "as model.name: lenet5, torchvision:resnet18, timm:NAME, transformers:CLASS, or package.module:function"
    verb.add_argument("--model", metavar="NAME", required=True, help=text)
    text = "a folder of shards or its URL; or digits, mnist, cifar10, or package.module:function of your own"
    verb.add_argument("--data", metavar="DATA", required=True, help=text)
    text = "what the network is made with, as in '{width: 32}'"
    verb.add_argument("--args", metavar="MAPPING", type=_mapping, default={}, help=text)
    text = "of the network's outputs (default: as many as the data says, where it says so)"
    verb.add_argument("--classes", metavar="N", type=int, help=text)
    text = "trained weights to start from: a file, its URL, or torchvision (default: none)"
    verb.add_argument("--weights", metavar="FILE", help=text)
    verb.add_argument("--objective", metavar="NAME", help="what is trained for (default: classify)")
    verb.add_argument("-o", "--output", metavar="FILE", type=Path, help="write it there (default: print it)")
    verb.set_defaults(command=_init)


def _mapping(given: str) -> dict[str, Any]:
    try:
        found = scalar(given)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"a mapping is needed, such as '{{width: 32}}', not {given!r}")
    return found


def _init(options: argparse.Namespace, console: Console) -> int:
    from dualprune.pipeline.plan.starter import Wanted, configuration

    file: Path | None = options.output
    if file is not None and file.exists():
        raise ConfigError("init", [f"{file} is there already; give another name"])
    source.importable(Path.cwd() if file is None else file.parent.absolute())
    wanted = Wanted(options.model, options.data, options.args, options.classes, options.weights, options.objective)
    text = configuration(wanted)
    if file is None:
        print(text, end="")
        return DONE
    try:
        file.write_text(text)
    except OSError as error:
        raise ConfigError("init", [f"{file} can't be written: {error.strerror}"]) from None
    say(console, f"{file} is written; next: dualprune plan {file}")
    return DONE
