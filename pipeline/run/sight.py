"""A run's stages as its own driver has them, from one look to the next."""

from __future__ import annotations

from dualprune.pipeline.run.board import Board, Row
from dualprune.pipeline.run.picture import Doings, Stage, stages
from dualprune.pipeline.run.results import Result, result
from dualprune.pipeline.store.store import Store


class Sight:
    """Looks at a board. What is done stays as it is, and is read once."""

    def __init__(self, board: Board, store: Store) -> None:
        self._board, self._store = board, store
        self._done: dict[str, Result] = {}

    def __call__(self, doings: Doings) -> tuple[Stage, ...]:
        """The stages now; another thread than the driver's may ask."""
        rows = [self._result(row) for row in self._board.standing()]
        return stages(rows, {row.name: self._board.nodes[row.name].parents for row in rows}, doings)

    def _result(self, row: Row) -> Result:
        found = self._done.get(row.node.name)
        if found is None:
            found = result(row.node, row.state, self._store, row.manifest, row.why)
            if row.manifest is not None:
                self._done[row.node.name] = found
        return found
