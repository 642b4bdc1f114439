"""`dualprune compare`: runs side by side on one page, from their stores alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from dualprune.pipeline.cli.report import NAMED, found, save, save_figures, stored, written
from dualprune.pipeline.config.problems import ConfigError
from dualprune.pipeline.output import DONE, answer, say


def add(verbs: Any) -> None:
    """Add the verb to the command line's."""
    text = "write a page of runs side by side: the same axes, what differs, which is better where, and seeds' spread"
    verb = verbs.add_parser("compare", help=text, description=text)
    verb.add_argument("runs", metavar="RUN", nargs="+", help=NAMED)
    stored(verb)
    written(verb, "compare.html")
    verb.set_defaults(command=_compare)


def _compare(options: argparse.Namespace, console: Console) -> int:
    from dualprune.pipeline.reports.page import drawing, page, versus_words
    from dualprune.pipeline.reports.page.figures import versus as figures
    from dualprune.pipeline.reports.page.versus import Unlike, compare

    if len(set(options.runs)) < 2:
        raise ConfigError("compare", ["two runs or more are needed"])
    runs = [found(name, options.store, options.set) for name in dict.fromkeys(options.runs)]
    try:
        compared = compare(runs)
        text = page.comparison(compared)
        out = Path(options.out or "compare.html")
        save(out, text)
        if options.figures:
            save_figures(Path(options.figures), figures.figures(compared))
    except (Unlike, drawing.NoDrawing) as error:
        raise ConfigError("compare", [str(error)]) from None
    say(console, f"{out}: {len(text.encode()):,} bytes; {versus_words.verdict(compared)}")
    if options.json:
        answer({"file": str(out), **versus_words.as_json(compared)})
    return DONE
