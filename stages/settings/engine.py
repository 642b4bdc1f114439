"""Settings of how a stage's work is carried out. They are no part of its key."""

from __future__ import annotations

from pydantic import Field, model_validator

from dualprune.stages.settings.base import Settings


class Engine(Settings):
    """How a stage's work is carried out. Changing it changes no key and re-runs nothing."""

    zero: int | None = Field(default=None, ge=0, le=3)
    """DeepSpeed's ZeRO stage. Left out, it is the lowest with which weights, gradients and the optimizer's and ADMM's
    state take half of a worker's memory at most: 0, where workers share nothing, has the fastest steps."""
    offload: bool = False
    """Keep the optimizer's state, Z and U among it, in the host's memory and step there (DeepSpeed's
    `offload_optimizer` to the CPU): less GPU memory, slower steps. Not with `zero: 0`."""
    accumulate: int = Field(default=1, ge=1)
    """Micro-batches per optimizer step and rank: less memory, and the same step but for batch normalisation and `mix`,
    which see a micro-batch at a time."""
    evaluate: int | None = Field(default=None, ge=1)
    """Samples that each rank evaluates at a time; left out, as many as it trains on at a time."""
    checkpoint_steps: int | None = Field(default=None, ge=1)
    """Checkpoint also within epochs, every so many steps; each epoch ends with one in any case."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of each rank; by default what the rank was given."""
    compile: bool = False
    """Have torch.compile make kernels of the network and of its teacher: the first steps of each stage take long, the
    others less. Needs a C++ compiler on the CPU, Triton on GPUs, and a `zero` below 3."""

    @model_validator(mode="after")
    def _sharded(self) -> Engine:
        if self.compile and self.zero == 3:
            raise ValueError("`compile` can't follow weights that ZeRO 3 gathers; leave it out, or lower `zero`")
        if self.offload and self.zero == 0:
            raise ValueError("`offload` moves what ZeRO shards: it needs `zero` 1, 2 or 3; leave one of the two out")
        return self

    def evaluated(self, batch: int, ranks: int) -> int:
        """Samples that each of so many ranks evaluates at a time, where a step has `batch` in all."""
        return self.evaluate or -(-batch // (ranks * self.accumulate))

    def stage(self, ranks: int, weights: int, memory: float) -> int:
        """The ZeRO stage of so many ranks, for a network of so many weights; each rank has so many bytes of memory."""
        if self.zero is not None:
            return self.zero
        lowest, highest = 1 if self.offload else 0, 2 if self.compile else 3
        fitting = (one for one in range(lowest, highest) if weights * needed(one, ranks) <= memory / 2)
        return lowest if ranks == 1 else next(fitting, highest)


WHOLE, STATE = 4, 13
"""Bytes of a weight, and of its gradient; of what Adam and ADMM keep of a weight, three numbers and a byte."""


def needed(zero: int, ranks: int) -> float:
    """Bytes that a rank needs for each weight: ZeRO shards state, from 2 on gradients too, and 3 weights themselves.

    From 1 on DeepSpeed keeps a share of the weights a second time.
    """
    share = 1 / ranks
    return sum(
        (
            WHOLE * (share if zero == 3 else 1),
            WHOLE * (share if zero >= 2 else 1),
            STATE * (share if zero >= 1 else 1),
            WHOLE * share if zero >= 1 else 0,
        )
    )
