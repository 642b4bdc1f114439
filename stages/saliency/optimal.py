"""The input that a class looks like to a network: gradient ascent on its score (Simonyan et al. 2014, section 2).

arg max S_c(X) - decay |X|^2. Of sequences X is a matrix of letters by places, from noise, and S the logarithm of the
class's probability, as in Lanchantin et al. 2017 (section 3.3): a score without bounds would fill all places. Its
positive part, each place divided by its sum, reads as a position weight matrix. Of tokens, X weighs the table's rows.
Of pictures S is the score itself; X begins at almost zero, the mean of normalised pictures, and is blurred a little now
and then, so that it is smooth (Yosinski et al. 2015).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dualprune.stages.objectives.base import Batch, Objective
from dualprune.stages.saliency.errors import NotShown
from dualprune.stages.saliency.inputs import Input, Network

DECAY = {"picture": 0.01, "sequence": 0.009, "tokens": 0.009}
"""Of the squares of X; of sequences as in DeepMotif's own code."""
STEP = 0.05
"""Adam's rate."""
EVERY, SIGMA = 4, 0.5
"""Pictures are blurred after so many steps, by a Gaussian of so many pixels."""
SMOOTHING = 0.01
"""Added to each letter of a place before it is divided by their sum, as in DeepMotif's own code."""
LARGEST = 1 << 24
"""Numbers that X may have: entries of a table times places."""


class Optimal(NamedTuple):
    """The input of one class."""

    of: int
    start: float
    """The class's score of what ascent began with."""
    score: float
    """And of what came out."""
    input: Tensor
    """[c, h, w], or [t, letters or entries]."""

    def weights(self) -> Tensor:
        """A sequence as a position weight matrix: [t, letters], each place's sum is 1."""
        kept = self.input.clamp(min=0)
        kept = kept / kept.max().clamp(min=1e-12) + SMOOTHING
        return kept / kept.sum(1, keepdim=True)


def optimal(
    network: Network,
    objective: Objective,
    batch: Batch,
    of: Input,
    label: int,
    steps: int,
    several: bool = False,
    seed: int = 0,
) -> Optimal:
    """What `steps` steps of ascent make of noise for the class `label`.

    What else the network is called with is the first sample's of `batch`. Raises NotShown where X would be too large.
    """
    one = {name: value[:1] for name, value in batch.items()}
    x = _start(_shape(network, objective, one, of, several), of, seed).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=STEP)
    started = _scores(network, objective, one, of, x, several)[label].item()
    for step in range(steps):
        loss = DECAY[of.kind] * x.square().sum() - _aim(network, objective, one, of, x, label, several)
        (x.grad,) = torch.autograd.grad(loss, x)
        optimizer.step()
        if of.kind == "picture" and step % EVERY == EVERY - 1 and step < steps - 1:
            x.data.copy_(blurred(x.data))
    ended = _scores(network, objective, one, of, x, several)[label].item()
    return Optimal(label, started, ended, x.detach()[0])


def blurred(pictures: Tensor) -> Tensor:
    """Pictures [n, c, h, w] after a small Gaussian, borders repeated."""
    places = torch.arange(-1.0, 2.0, device=pictures.device)
    line = torch.exp(-(places**2) / (2 * SIGMA**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    channels = pictures.shape[1]
    padded = nn.functional.pad(pictures, (1, 1, 1, 1), mode="replicate")
    return nn.functional.conv2d(padded, kernel.expand(channels, 1, 3, 3), groups=channels)


def _shape(network: Network, objective: Objective, batch: Batch, of: Input, several: bool) -> tuple[int, ...]:
    """Of X, with an axis of one sample."""
    _, leaf = of.called(network, objective, batch, several=several)
    if of.kind == "picture":
        return tuple(leaf.shape)
    letters = of.letters(leaf)
    entries = letters.shape[2] if of.table is None else len(of.table)
    if entries * letters.shape[1] > LARGEST:
        text = f"{entries:,} tokens at {letters.shape[1]:,} places"
        raise NotShown(f"no input is made for a class: of {text} it would have more than {LARGEST:,} numbers")
    return (1, letters.shape[1], entries)


def _start(shape: tuple[int, ...], of: Input, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if of.kind == "picture":
        return 0.01 * torch.randn(shape, generator=generator)
    noise = torch.rand(shape, generator=generator)
    return noise if of.table is None else noise / shape[2]


def _aim(
    network: Network, objective: Objective, batch: Batch, of: Input, x: Tensor, label: int, several: bool
) -> Tensor:
    """What is ascended."""
    scores = _scores(network, objective, batch, of, x, several)
    if of.kind == "picture":
        return scores[label]
    return nn.functional.logsigmoid(scores[label]) if several else scores.log_softmax(0)[label]


def _scores(network: Network, objective: Objective, batch: Batch, of: Input, x: Tensor, several: bool) -> Tensor:
    """Of X alone: [k]."""
    given = x if of.table is None else x @ of.table.float()
    if of.kind != "picture" and of.axis == 1:
        given = given.transpose(1, 2)
    return of.called(network, objective, batch, given, several)[0][0]
