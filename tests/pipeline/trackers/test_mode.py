"""How runs are mirrored to W&B is what wandb itself would do here, unless it is configured."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from dualprune.pipeline.config.schema import Monitor
from dualprune.pipeline.trackers.table import Given, mirror
from dualprune.pipeline.trackers.wandb.mode import USED, choose
from dualprune.stages.files.folder import Folder
from tests.pipeline.trackers.wandbserver import KEY

LOGIN = f"machine {{host}} login user password {KEY}"
FILES = "[default]\nmode = offline\n"


@pytest.mark.parametrize(
    ("environment", "login", "files", "expected"),
    [
        ({}, None, None, "offline as wandb has no key for "),
        ({"WANDB_API_KEY": KEY}, None, None, "online at "),
        ({"WANDB_API_KEY": "short"}, None, None, "offline as wandb takes no key for .*WANDB_API_KEY invalid"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, None, None, "offline as WANDB_MODE says$"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, None, None, "offline as WANDB_MODE says$"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, None, None, "disabled as WANDB_MODE says$"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "nonsense"}, None, None, "disabled as wandb does not take .*nonsense"),
        ({"WANDB_API_KEY": KEY, "WANDB_DISABLED": "true"}, None, None, "disabled as WANDB_DISABLED says$"),
        ({"WANDB_API_KEY": KEY}, None, FILES, "offline as .*/wandb/settings says$"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}, None, FILES, "online at "),
        ({"WANDB_API_KEY": KEY}, None, FILES.replace("offline", "disabled"), "disabled as .*/wandb/settings says$"),
        ({}, LOGIN.format(host="api.wandb.ai"), None, "online at "),
        ({}, LOGIN.format(host="example.org"), None, "offline as wandb has no key for "),
        (
            {"WANDB_BASE_URL": "https://example.org:8080"},
            LOGIN.format(host="example.org:8080"),
            None,
            "online at .*:8080",
        ),
        ({}, "not a netrc file", None, "offline as wandb has no key for "),
    ],
)
@pytest.mark.usefixtures("_offline", "_asked_anew")
def test_auto_is_what_wandb_itself_would_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    login: str | None,
    files: str | None,
    expected: str,
) -> None:
    """By its variables, its files of settings and the keys that it finds; it says which, and nothing of its own."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if login is not None:
        (tmp_path / "no-netrc").write_text(login)
        (tmp_path / "no-netrc").chmod(0o600)
    if files is not None:
        (tmp_path / "wandb").mkdir()
        (tmp_path / "wandb" / "settings").write_text(files)
    chosen = choose("auto")
    assert re.match(expected, f"{chosen.mode} {chosen.why}"), chosen
    assert "".join(capsys.readouterr()) == ""


@pytest.mark.parametrize("number", range(len(USED)))
@pytest.mark.parametrize("wanted", ["auto", "online"])
def test_a_wandb_that_lacks_what_is_used_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, wanted: Literal["auto", "online"], number: int
) -> None:
    """Whichever of its names another version calls otherwise; it says so, and training goes on without."""
    module, name = USED[number]
    used = (*USED[:number], (module, f"{name}_no_more"), *USED[number + 1 :])
    monkeypatch.setattr("dualprune.pipeline.trackers.wandb.mode.USED", used)
    chosen = choose(wanted)
    text = rf"as wandb \S+ lacks {module}\.{name}_no_more, which dualprune uses: install one of the versions "
    assert chosen.mode == "disabled"
    assert re.match(text, chosen.why)


@pytest.mark.usefixtures("_offline", "_asked_anew")
def test_a_login_is_found(tmp_path: Path) -> None:
    """Under whichever host this wandb writes it down; `wandb offline` goes before it, in its folder."""
    code = f"import wandb; wandb.login(key={KEY!r}, verify=False)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"WANDB_SILENT": "true"})
    assert KEY in (tmp_path / "no-netrc").read_text()
    code = "from dualprune.pipeline.trackers.wandb.mode import choose; print(choose('auto').mode)"

    def mode() -> str:
        return subprocess.run([sys.executable, "-c", code], check=True, stdout=-1, text=True).stdout

    assert mode() == "online\n"
    subprocess.run([sys.executable, "-m", "wandb", "offline"], check=True)
    assert mode() == "offline\n"


@pytest.mark.parametrize(
    ("wanted", "environment", "expected"),
    [
        ("online", {}, "offline though monitor.wandb says online, as wandb has no key"),
        ("online", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "online at "),
        ("offline", {"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, "offline as monitor.wandb says"),
        ("disabled", {"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}, "disabled as monitor.wandb says"),
    ],
)
@pytest.mark.usefixtures("_offline", "_asked_anew")
def test_a_mode_that_is_configured_goes_before_wandbs_own(
    monkeypatch: pytest.MonkeyPatch, wanted: Any, environment: dict[str, str], expected: str
) -> None:
    """As an argument of `wandb.init` does. Nobody is asked for a key."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    chosen = choose(wanted)
    assert f"{chosen.mode} {chosen.why}".startswith(expected)


def told(folder: Path, **settings: Any) -> list[str]:
    """What is said of trackers as a run begins."""
    found: list[str] = []
    with mirror(Given(Monitor(**settings), "run", Folder(str(folder / "store")), folder / "logs", found.append)):
        pass
    return found


def test_disabled_is_nothing_at_all(tmp_path: Path) -> None:
    """No files; it is said."""
    assert told(tmp_path, wandb="disabled") == ["W&B: disabled as monitor.wandb says"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_offline", "_asked_anew")
def test_where_tensorboard_looks_is_told(tmp_path: Path) -> None:
    """If it is wanted; and of W&B its mode, and why."""
    assert told(tmp_path, wandb="offline", tensorboard=True) == [
        "W&B: offline as monitor.wandb says",
        f"TensorBoard: tensorboard --logdir {tmp_path}/logs/tensorboard",
    ]
