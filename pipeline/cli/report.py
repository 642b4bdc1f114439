"""`dualprune report`: a run as one page that needs nobody, from its store alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dualprune.pipeline.cli.store import RUNS, opened
from dualprune.pipeline.config.load import RECIPES, read
from dualprune.pipeline.config.problems import ConfigError, argued
from dualprune.pipeline.output import DONE, answer, say
from dualprune.pipeline.store.store import Store
from dualprune.stages.files import urls

if TYPE_CHECKING:
    from dualprune.pipeline.reports.page.facts import Run
    from dualprune.pipeline.reports.page.figures.base import Figure

NAMED = "a run by its name in the store (NAME@URL: in that store), or by its configuration: a YAML file, or a recipe"
"""What names a run."""
ENDS = (".yaml", ".yml")


def add(verbs: Any) -> None:
    """Add the verb to the command line's."""
    text = "write a page on a run, from its store alone: what was asked, what came of it, and what is missing"
    verb = verbs.add_parser("report", help=text, description=text)
    verb.add_argument("run", metavar="RUN", help=NAMED)
    text = "the finished stage that the page is about (default: what the run chose or came to)"
    verb.add_argument("--stage", metavar="STAGE", help=text)
    stored(verb)
    written(verb, "RUN.html")
    verb.set_defaults(command=_report)


def stored(verb: argparse.ArgumentParser) -> None:
    """Add the arguments that say where runs are."""
    where = verb.add_argument_group("where it is")
    text = f"folder or fsspec URL of the store (default: {RUNS}, or a configuration's own)"
    where.add_argument("--store", metavar="URL", type=argued(urls.checked), help=text)
    text = "a setting that a configuration was run with; several may follow"
    where.add_argument("--set", metavar="A.B=C", action="append", default=[], help=text)


def written(verb: argparse.ArgumentParser, page: str) -> None:
    """Add the arguments that say what is written; `page` is where the page goes by default."""
    output = verb.add_argument_group("output")
    text = f"where the page goes (default: {page})"
    output.add_argument("--out", metavar="FILE", type=argued(urls.local), help=text)
    text = "write each figure there too, as NAME.svg and NAME.png, in light colours"
    output.add_argument("--figures", metavar="FOLDER", type=argued(urls.local), help=text)
    text = "print the facts of the page as one JSON object, the last line of output"
    output.add_argument("--json", action="store_true", help=text)


def _report(options: argparse.Namespace, console: Console) -> int:
    from dualprune.pipeline.reports.page import drawing, page
    from dualprune.pipeline.reports.page.figures.table import figures
    from dualprune.pipeline.reports.page.summary import as_json

    run = found(options.run, options.store, options.set, options.stage)
    try:
        text = page.report(run)
        out = Path(options.out or f"{run.name.replace('/', '-')}.html")
        save(out, text)
        if options.figures:
            save_figures(Path(options.figures), figures(run))
    except drawing.NoDrawing as error:
        raise ConfigError("report", [str(error)]) from None
    say(console, f"{out}: {len(text.encode()):,} bytes; the run {run.said}")
    for missing in run.missing:
        say(console, f"  {missing}")
    if options.json:
        answer({"file": str(out), **as_json(run)})
    return DONE


def found(name: str, url: str | None, settings: Sequence[str], stage: str | None = None) -> Run:
    """The run that a word of a command line names. Raises ConfigError."""
    from dualprune.pipeline.reports.page.collect import NoRun, collect

    store, run = _placed(name, url, settings)
    try:
        return collect(store, run, stage)
    except NoRun as error:
        raise ConfigError("report", [str(error)]) from None
    except KeyError as error:
        raise ConfigError("--stage", [f"the run {run} has no finished stage {error}"]) from None


def _placed(name: str, url: str | None, settings: Sequence[str]) -> tuple[Store, str]:
    """A run's store, and its name there. A word is the name of a run before it is that of a recipe."""
    from dualprune.pipeline.reports.page.collect import runs

    configured = name.endswith(ENDS)
    if not configured and "@" in name:
        name, _, at = name.partition("@")
        return opened(at, "RUN"), name
    if not configured and (RECIPES / f"{name}.yaml").exists():
        store = Store(url or RUNS)
        configured = not store.folder.exists() or name not in runs(store)
    if not configured:
        return opened(url or RUNS, "--store"), name
    top = read(name, list(settings)).sound().top
    return opened(url or top.store, "store" if url is None else "--store"), top.name


def save(out: Path, text: str) -> None:
    """Write a page. Raises ConfigError where that can't be."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError("--out", [f"{out} can't be written: {error}"]) from None


def save_figures(folder: Path, drawn: Sequence[Figure]) -> None:
    """Write each figure as SVG and PNG. Raises ConfigError, and pipeline.reports.page.drawing.NoDrawing."""
    from dualprune.pipeline.reports.page import drawing
    from dualprune.pipeline.reports.page.figures.base import WIDE

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in drawn:
            spec = figure.spec(WIDE)
            (folder / f"{figure.name}.svg").write_text(drawing.alone(spec), encoding="utf-8")
            (folder / f"{figure.name}.png").write_bytes(drawing.png(spec))
    except OSError as error:
        raise ConfigError("--figures", [f"{folder} can't be written: {error}"]) from None
