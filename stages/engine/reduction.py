"""Gradients added up over the ranks while the backward pass is still at work, for parameters that all ranks have whole.

As torch's DistributedDataParallel does it: gradients that come one after another are copied into one tensor, a bucket,
whose sum over the ranks is taken in the background. Unlike it, it asks nothing of the network: outputs may be of any
type, a loss may come of several passes forward, and a parameter that had no part in it has a gradient of zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

FIRST, OTHERS = 1 << 20, 25 << 20
"""Bytes after which a bucket is closed: the first, so that the ranks soon have something to send, and the others.
DistributedDataParallel's own."""


class Twice(RuntimeError):
    """A gradient that grows on after it was sent to the other ranks."""


class Reduction:
    """Adds the gradients of parameters up over all ranks, into their `grad`: views of one tensor for each bucket."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.buckets = list(_buckets(parameters))
        self._group = dist.distributed_c10d._get_default_group()
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(partial(self._came, number))
            for number, bucket in enumerate(self.buckets)
            for parameter in bucket
        ]
        self._left: list[int] | None = None
        """Of each bucket, how many of its gradients are still to come in this backward pass; None in others."""
        self._sent: list[dist.Work] = []

    @contextmanager
    def summing(self) -> Iterator[None]:
        """Within it, a backward pass whose gradients are added up over the ranks. On all of them together."""
        self._left, self._sent = [len(bucket) for bucket in self.buckets], []
        yield
        for bucket in self.buckets[len(self._sent) :]:
            self._send(bucket)
        self._left = None
        for work in self._sent:
            work.wait()

    def close(self) -> None:
        """Leave the parameters alone from now on."""
        for hook in self._hooks:
            hook.remove()

    def _came(self, number: int, parameter: Tensor) -> None:
        """A gradient of a bucket is there. Buckets are sent in their order, the same on all ranks, whichever of them is
        full first: ranks may leave out different layers. Raises Twice."""
        left = self._left
        if left is None:
            return
        if number < len(self._sent):
            raise Twice(
                f"a gradient of shape {list(parameter.shape)} came twice in one backward pass: layers that are computed"
                " anew in it (torch.utils.checkpoint) want `use_reentrant=False`, or the stage `engine: {zero: 1}`"
            )
        left[number] -= 1
        while len(self._sent) < len(left) and left[len(self._sent)] <= 0:
            self._send(self.buckets[len(self._sent)])

    def _send(self, bucket: list[nn.Parameter]) -> None:
        """Begin to add up a bucket's gradients over the ranks."""
        for parameter in bucket:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = _flatten_dense_tensors([parameter.grad for parameter in bucket])
        for parameter, view in zip(bucket, _unflatten_dense_tensors(flat, bucket), strict=True):
            parameter.grad = view
        self._sent.append(self._group.allreduce([flat]))


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters in about the order in which their gradients come: the last first."""
    bucket: list[nn.Parameter] = []
    room = FIRST
    for parameter in reversed(list(parameters)):
        bucket.append(parameter)
        room -= parameter.nbytes
        if room <= 0:
            yield bucket
            bucket, room = [], OTHERS
    if bucket:
        yield bucket
