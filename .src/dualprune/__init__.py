"""dualprune: prunes large networks in stages, each solved by ADMM, on Ray, DeepSpeed and WebDataset.

The packages: `pipeline`, what runs and what came of it; `stages`, what one stage does on its ranks; `cluster`, how a
function gets onto machines. Importing this one loads nothing heavy: what is named here comes when it is asked for.

    Pruner                                    ADMM in a training loop of your own
    cardinality, nm, filter, ...              its constraints: a function for each set
    TransformersCallback, LightningCallback   the same, for those who leave the loop to a trainer
    shrink, Structure                         a pruned network without what is zero in it; how to make one of another
    run, load                                 a configuration run from Python; a finished network
    Objective, Metric                         what a module of your own makes, to train a network for something else
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualprune.pipeline.config.problems import ConfigError as ConfigError
    from dualprune.pipeline.library import run as run
    from dualprune.stages.library.finished import load as load
    from dualprune.stages.library.huggingface import TransformersCallback as TransformersCallback
    from dualprune.stages.library.lightning import LightningCallback as LightningCallback
    from dualprune.stages.library.pruner import Pruner as Pruner
    from dualprune.stages.library.shrink import shrink as shrink
    from dualprune.stages.networks.structure import Structure as Structure
    from dualprune.stages.objectives.base import Metric as Metric
    from dualprune.stages.objectives.base import Objective as Objective
    from dualprune.stages.settings.base import SpecError as SpecError

__version__ = "0.1.0"

_PLACES = {
    "Pruner": "dualprune.stages.library.pruner",
    "shrink": "dualprune.stages.library.shrink",
    "Structure": "dualprune.stages.networks.structure",
    "TransformersCallback": "dualprune.stages.library.huggingface",
    "LightningCallback": "dualprune.stages.library.lightning",
    "Objective": "dualprune.stages.objectives.base",
    "Metric": "dualprune.stages.objectives.base",
    "SpecError": "dualprune.stages.settings.base",
    "load": "dualprune.stages.library.finished",
    "run": "dualprune.pipeline.library",
    "ConfigError": "dualprune.pipeline.config.problems",
}
"""Where the public names are, beside the sets' functions."""


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    if not name.startswith("_"):
        constructors = _constructors()
        if name in constructors:
            return constructors[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES, *_constructors()])


def _constructors() -> dict[str, Any]:
    from dualprune.stages.library.sets import CONSTRUCTORS

    return CONSTRUCTORS
