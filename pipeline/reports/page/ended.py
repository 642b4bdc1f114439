"""The page of a run that has ended, for the trackers that show it."""

from __future__ import annotations

import logging
from pathlib import Path

from dualprune.pipeline.store.store import Store

_log = logging.getLogger(__name__)


def written(store: Store, run: str, folder: Path) -> Path | None:
    """Write a run's page as `report.html` into a folder; None, logged, where that can't be: what draws is an extra, and
    a run is as good without."""
    from dualprune.pipeline.reports.page import page
    from dualprune.pipeline.reports.page.collect import collect
    from dualprune.pipeline.reports.page.drawing import NoDrawing

    out = folder / "report.html"
    try:
        out.write_text(page.report(collect(store, run)), encoding="utf-8")
    except NoDrawing as error:
        _log.info("%s", error)
        return None
    except Exception:  # noqa: BLE001 - whatever a page fails of, the run has ended as it has
        _log.warning("%s can't be written", out, exc_info=True)
        return None
    return out
