"""What learning from within a teacher takes of a training step, beside learning from its outputs alone.

A BERT of MiniLM-L6's size with weights of its own beginning, eight sentences of 64 tokens, on one CPU thread: both
networks forward, and one back. Times are processor time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
import transformers
from torch import nn

from dualprune.stages.engine.ranks import join
from dualprune.stages.kinds.table import parse
from dualprune.stages.objectives.base import Batch, Objective
from dualprune.stages.objectives.tokens import tokens
from dualprune.stages.settings.distill import Distill
from dualprune.stages.training.teacher import Teacher
from tests.bench.common import Row, interleaved, options, ratios, report

SIZE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
SAMPLES, TOKENS, WORDS = 8, 64, 30_000
WAYS: dict[str, dict[str, Any]] = {
    "outputs": {},
    "hidden": {"hidden": 1},
    "hidden, attention": {"hidden": 1, "attention": 1},
    "hidden, maps": {"hidden": 1, "maps": 1},
}
SPEC = {
    "kind": "train",
    "model": {"name": "transformers:BertForSequenceClassification", "classes": 2, "args": SIZE},
    "data": {"shards": "none"},
    "objective": {"name": "tokens", "args": {"task": "sequence"}},
    "train": {"epochs": 1, "lr": 0.1},
}


def step(aim: Objective, student: nn.Module, teacher: Teacher, batch: Batch) -> None:
    """Forward and back."""
    student.zero_grad()
    with teacher.looking():
        outputs = aim.call(student, batch)
    teacher.apart(outputs, batch).backward()


def main() -> None:
    """Measure all ways and report them."""
    asked = options(__doc__.splitlines()[0])
    join(threads=1)
    torch.manual_seed(0)
    kind = transformers.BertForSequenceClassification
    student, other = (kind(transformers.BertConfig(**SIZE)) for _ in range(2))
    batch = {
        "input_ids": torch.randint(WORDS, (SAMPLES, TOKENS)),
        "input_ids_mask": torch.ones(SAMPLES, TOKENS, dtype=torch.bool),
        "label": torch.zeros(SAMPLES, dtype=torch.int64),
    }
    aim = tokens(parse(SPEC))
    steps: dict[str, Callable[[], None]] = {}
    for name, inside in WAYS.items():
        teacher = Teacher(other.eval(), Distill.model_validate({"weight": 1.0, **inside}), aim, bf16=False)
        teacher.teaches(student.train())
        steps[name] = partial(step, aim, student, teacher, batch)
    times = interleaved(steps, 4 if asked.quick else 12, 1, time.process_time)
    rows: list[Row] = [
        {"learns_from": name, "ms_a_step": median(of), "of_outputs_alone": ratios(of, times["outputs"])[1]}
        for name, of in times.items()
    ]
    report("Learning from within a teacher", rows, asked)


if __name__ == "__main__":
    main()
