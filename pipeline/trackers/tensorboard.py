"""TensorBoard: a folder of event files for each stage. tensorboard's one door.

`tensorboard --logdir <folder>` shows them. What a stage that goes on has told before is written anew, and its older
files are removed: TensorBoard shows all that lie in a folder, and would show those rows twice.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from dualprune.pipeline.trackers.base import End, Histogram, Row, Stage, Summary


class TensorBoard:
    """Writes a run's series into `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, Any] = {}
        self._last: dict[str, int] = {}
        """The last step of each stage, by key."""

    def begin(self, stage: Stage, before: Sequence[Row]) -> None:
        """Open a stage's folder."""
        if stage.key not in self._writers:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            place = self.folder / f"{stage.name}-{stage.key}"
            shutil.rmtree(place, ignore_errors=True)
            self._writers[stage.key] = EventFileWriter(str(place), flush_secs=10)
        for row in before:
            self.row(stage, row)

    def row(self, stage: Stage, row: Row) -> None:
        """Write a row, unless its step was written before."""
        if row.steps <= self._last.get(stage.key, -1):
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary as Values

        self._last[stage.key] = row.steps
        values = [Values.Value(tag=name, simple_value=value) for name, value in row.numbers.items()]
        values += [Values.Value(tag=name, histo=_proto(one)) for name, one in row.histograms.items()]
        event = Event(wall_time=time.time(), step=row.steps, summary=Values(value=values))
        self._writers[stage.key].add_event(event)

    def end(self, stage: Stage, end: End) -> None:
        """Close a stage's file."""
        writer = self._writers.pop(stage.key, None)
        if writer is not None:
            writer.close()

    def summarize(self, summary: Summary) -> None:
        """There is no place for it."""

    def close(self, patience: float) -> None:
        """Close what is open."""
        while self._writers:
            self._writers.popitem()[1].close()

    def left(self) -> list[str]:
        """Nothing."""
        return []


def _proto(one: Histogram) -> Any:
    """In TensorBoard's form; sums are those of the bins' middles."""
    from tensorboard.compat.proto.histogram_pb2 import HistogramProto

    edges = one.edges()
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return HistogramProto(
        min=one.low,
        max=one.high,
        num=sum(one.counts),
        sum=sum(count * middle for count, middle in zip(one.counts, middles, strict=True)),
        sum_squares=sum(count * middle**2 for count, middle in zip(one.counts, middles, strict=True)),
        bucket_limit=edges[1:],
        bucket=one.counts,
    )
