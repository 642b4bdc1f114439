"""How runs are mirrored to Weights & Biases: online, in offline files, or not at all.

wandb itself is asked: its variables, its settings files, and the keys that it finds. Without a key the runs are
offline files.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any, Literal

from dualprune.cluster.names import lacking
from dualprune.cluster.surroundings import give_home

Mode = Literal["online", "offline", "disabled"]
OFF = ("1", "true", "yes", "on")
"""What WANDB_DISABLED reads where it means it. wandb knows it no more, but those who set it want nothing sent."""
USED = (
    ("wandb", "Settings.read_system_settings"),
    ("wandb", "termsetup"),
    ("wandb.env", "get_cache_dir"),
    ("wandb.sdk.artifacts.artifact_manifest_entry", "ArtifactManifestEntry"),
    ("wandb.sdk.wandb_run", "Run._log_artifact"),
    ("wandb.sdk.wandb_setup", "singleton"),
)
"""Names of wandb's that are used here beyond its documentation. Without them it is not used, and a person is told."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """How runs are mirrored, where or why (the end of a sentence), and the project that wandb's own settings name."""

    mode: Mode
    why: str
    project: str | None = None


def choose(wanted: Mode | Literal["auto"]) -> Choice:
    """What is wanted, or for `auto` what wandb itself would do here; online only with a key."""
    # One decision after the other, each of which ends it: their order is what there is to read.
    if wanted == "disabled":
        return Choice("disabled", "as monitor.wandb says")
    if wanted == "auto" and os.environ.get("WANDB_DISABLED", "").lower() in OFF:
        return Choice("disabled", "as WANDB_DISABLED says")
    # What wandb reports of itself it would send at this process's exit, and wait for that as long as half a minute.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    problem = lacking("wandb", wandb.__version__, USED)
    if problem is not None:
        return Choice("disabled", f"as {problem}")
    from wandb.sdk.wandb_setup import singleton

    give_home()
    wandb.termsetup(wandb.Settings(silent=True), _log)
    try:
        # Not `wandb.setup`, which starts a process, and names it in the environment that Ray's would get.
        settings = singleton().settings
    except Exception as error:  # noqa: BLE001 - its settings may be anything
        return Choice("disabled", f"as wandb does not take its own settings: {line(error)}")
    settings.silent = True
    wandb.termsetup(settings, _log)  # once more: reading them has undone it
    mode, why = (settings.mode, _source(settings)) if wanted == "auto" else (wanted, "as monitor.wandb says")
    if mode == "disabled":
        return Choice("disabled", why)
    if mode in ("offline", "dryrun"):
        return Choice("offline", why, settings.project)
    settings.mode = "online"  # else it would not look for a key where its own settings say offline
    try:
        if wandb.login(prompt=False, verify=False):
            return Choice("online", f"at {settings.base_url}, for which wandb has a key", settings.project)
        why = f"as wandb has no key for {settings.base_url}: `wandb login` or WANDB_API_KEY gives it one"
    except Exception as error:  # noqa: BLE001 - of a key that it does not take
        why = f"as wandb takes no key for {settings.base_url}: {line(error)}"
    though = "though monitor.wandb says online, " if wanted == "online" else ""
    return Choice("offline", though + why, settings.project)


def _source(settings: Any) -> str:
    """Where wandb has its mode from: its variable, or its files of settings."""
    if os.environ.get("WANDB_MODE"):
        return "as WANDB_MODE says"
    return f"as {' and '.join(str(path) for path in settings.read_system_settings().sources)} says"


def line(error: Exception) -> str:
    """An error in a line, without pydantic's reference to its own documentation."""
    return " ".join(str(error).partition("For further information")[0].split()) or type(error).__name__
