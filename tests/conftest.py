"""What whole runs are compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import CONFIG, dualprune


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished run and its output."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "small.yaml").write_text(CONFIG)
    code, lines = dualprune(folder, "run", "small.yaml", "--json")
    assert code == 0, "\n".join(lines)
    return folder, lines
