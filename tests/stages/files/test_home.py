"""Where downloads are kept, and what is said where there is no such place."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from dualprune.stages.data.format import DataError
from dualprune.stages.data.make import builtin as sources
from dualprune.stages.data.read import cache
from dualprune.stages.files.folder import Folder
from dualprune.stages.files.home import NoHome, cache_folder
from dualprune.stages.networks.pretrained import WeightsError, bring
from dualprune.stages.settings.training import Model

NONE = (
    r"this user has no home folder to keep downloads in: set XDG_CACHE_HOME, or HOME, to a folder that can be written"
)
SHUT = r"downloads can't be kept \(\[Errno 20\].*\): set XDG_CACHE_HOME, or HOME, to a folder that can be written"


def unknown(number: int) -> pwd.struct_passwd:
    """A user that the system knows by number only, as in a container."""
    raise KeyError(f"getpwuid(): uid not found: {number}")


@pytest.fixture(params=[None, "/dev/null/home"])
def text(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Nobody's home, or one that can't be written, and what is said of it."""
    for name in ("HOME", "XDG_CACHE_HOME", "DUALPRUNE_CACHE", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    if request.param is None:
        return NONE
    monkeypatch.setenv("HOME", request.param)
    return SHUT


def test_downloads_have_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the user's home, or where the variable says."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("weights") == tmp_path / ".cache" / "dualprune" / "weights"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "else"))
    assert cache_folder("weights") == tmp_path / "else" / "dualprune" / "weights"
    assert cache_folder("weights").is_dir()


def test_what_needs_a_home_says_which_variable_to_set(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And makes no folder called `~` where it stands."""
    monkeypatch.chdir(tmp_path)
    store = Folder(str(tmp_path / "store"))
    with pytest.raises(NoHome, match=f"^{text}$"):
        cache_folder()
    with pytest.raises(WeightsError, match=f"can't be read: {text}$"):
        bring(Model(name="resnet20", weights="memory://none/w.pth"), store)
    with pytest.raises(WeightsError, match=r"set TORCH_HOME, or HOME|can't be downloaded .*Errno 20.*give `weights`"):
        bring(Model(name="squeezenet1_1", weights="torchvision"), store)
    for name in ("mnist", "cifar10"):
        with pytest.raises(DataError, match=f"downloaded \\({text}\\); give `folder`"):
            sources.SOURCES[name](None)
    with pytest.raises(DataError, match=f"^{text}; or DUALPRUNE_CACHE, for shards alone$"):
        cache.default_root()
    assert list(tmp_path.iterdir()) == []


def test_weights_at_hand_need_no_home(text: str, tmp_path: Path) -> None:
    """Only what is downloaded has to be kept somewhere."""
    with pytest.raises(WeightsError, match=r"w\.pth can't be read: FileNotFoundError"):
        bring(Model(name="resnet20", weights=str(tmp_path / "w.pth")), Folder(str(tmp_path / "store")))
