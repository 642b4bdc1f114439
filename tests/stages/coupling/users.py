"""Networks as users write them, each with something that goes together in its own way."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)


class Pictures(nn.Module):
    """A layer `a`, what is between, and a last linear layer `head` over channels."""

    def __init__(self, width: int, last: int) -> None:
        super().__init__()
        self.a, self.head = conv(3, width), nn.Linear(last, 4)

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.between(self.a(x)).mean((2, 3)))
        return y


class Residual(Pictures):
    def __init__(self) -> None:
        super().__init__(8, 8)
        self.norm, self.b, self.c = nn.BatchNorm2d(8), conv(8, 6), conv(6, 8)

    def between(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        y: Tensor = x + self.c(self.b(x).relu())
        return y


class Concatenation(Pictures):
    def __init__(self) -> None:
        super().__init__(6, 10)
        self.b = conv(6, 4)

    def between(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.b(x)], 1)


class Depthwise(Pictures):
    def __init__(self) -> None:
        super().__init__(6, 12)
        self.b = conv(6, 12, groups=6)

    def between(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(x)
        return y


class Grouped(Pictures):
    def __init__(self) -> None:
        super().__init__(8, 12)
        self.b = conv(8, 12, groups=2)

    def between(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(x)
        return y


class Flattened(Pictures):
    def __init__(self) -> None:
        super().__init__(6, 6 * 16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.adaptive_avg_pool2d(self.a(x), 4).flatten(1))
        return y


class Shuffled(Pictures):
    """Channels of two groups are interleaved, as ShuffleNet does."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.b = conv(8, 8, groups=2)

    def between(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y: Tensor = self.b(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))
        return y


class Squeezed(Pictures):
    """Squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.less, self.more = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1)

    def between(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.more(self.less(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return y


class PixelShuffled(Pictures):
    def __init__(self) -> None:
        super().__init__(12, 5)
        self.b = conv(3, 5)

    def between(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(F.pixel_shuffle(x, 2))
        return y


class Reused(Pictures):
    def __init__(self) -> None:
        super().__init__(8, 8)
        self.b = conv(8, 8)

    def between(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.b(x).relu())
        return y


class Padded(Pictures):
    """A shortcut with channels of zeros, whose numbers are kept."""

    def __init__(self) -> None:
        super().__init__(4, 8)
        self.b, self.before, self.after = conv(4, 8), 2, 2

    def between(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(x) + F.pad(x, (0, 0, 0, 0, self.before, self.after))
        return y


class Normed(Pictures):
    """Group norms look at all channels of a group, which go together."""

    def __init__(self, groups: int = 2) -> None:
        super().__init__(8, 6)
        self.norm, self.b = nn.GroupNorm(groups, 8), conv(8, 6)

    def between(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.norm(x))
        return y


class Together(Normed):
    """One group of all channels, so that none can go; those of `b` do."""

    def __init__(self) -> None:
        super().__init__(1)


class Counted(Pictures):
    """A group norm that has no weights of its own, and a filter of everyone's: both go by numbers that are kept."""

    def __init__(self) -> None:
        super().__init__(8, 6)
        self.b, self.groups, self.width = conv(8, 6), 4, 8
        self.register_buffer("mean", torch.ones(8, 1, 3, 3) / 9)

    def between(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(F.conv2d(F.group_norm(x, self.groups), self.get_buffer("mean"), groups=self.width))
        return y


class Volumes(nn.Module):
    """Between places of volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv3d(1, 6, 3), nn.ConvTranspose3d(6, 5, 2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(F.adaptive_max_pool3d(self.a(x), 2), scale_factor=2, mode="trilinear")
        y: Tensor = self.head(F.interpolate(self.b(x), scale_factor=2).mean((2, 3, 4)))
        return y


class Standardised(Pictures):
    """Weights over their own deviation, which each input has a part in; those that nothing after is divided by go."""

    def __init__(self) -> None:
        super().__init__(8, 6)
        self.b = conv(8, 6)

    def between(self, x: Tensor) -> Tensor:
        flat = self.b.weight.reshape(1, len(self.b.weight), -1)
        y: Tensor = F.conv2d(x, F.batch_norm(flat, None, None, training=True).reshape_as(self.b.weight), self.b.bias)
        return y


class Odd(Pictures):
    """Products along channels, of which no rule knows anything."""

    def __init__(self) -> None:
        super().__init__(8, 6)
        self.b = conv(8, 6)

    def between(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(x.cumprod(1))
        return y


class Gated(nn.Module):
    """A gated feed-forward layer, both halves of which come from one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.a(x).chunk(2, -1)
        y: Tensor = self.head(value * F.silu(gate))
        return y


class Glu(Gated):
    """The same by torch's own operation."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.glu(self.a(x)))
        return y


class Tied(nn.Module):
    """Words are told by the weights that they are embedded by."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.a, self.b = nn.Embedding(20, 8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.out = nn.Linear(8, 20, bias=False)
        self.out.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.words(x)
        z: Tensor = self.out(y + self.b(self.a(y).relu()))
        return z


class Attention(nn.Module):
    """Attention by hand, of four heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out, self.heads, self.width = nn.Linear(8, 8), 4, 2

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (f(x).view(n, t, self.heads, self.width).transpose(1, 2) for f in (self.q, self.k, self.v))
        found = (q @ k.transpose(-2, -1) * self.width**-0.5).softmax(-1) @ v
        y: Tensor = x + self.out(found.transpose(1, 2).reshape(n, t, self.heads * self.width))
        return y


class Divided(nn.Module):
    """Attention by hand that divides what there is by its heads: with one less it runs, and gives something else."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 3)
        self.heads = 6

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        y: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return y


class Deep(Pictures):
    """A further head on the first layer, in training alone."""

    def __init__(self) -> None:
        super().__init__(8, 6)
        self.b, self.early = conv(8, 6), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y: Tensor = self.head(self.b(x).mean((2, 3)))
        return y + self.early(x.mean((2, 3))) if self.training else y


class Torch(nn.Module):
    """torch's own attention, whose weights may be asked for; code that reads them adds them to what it gives."""

    def __init__(self, need: bool = False, masked: bool = False, padded: bool = False, read: bool = False) -> None:
        super().__init__()
        self.inner, self.head = nn.MultiheadAttention(8, 4, batch_first=True), nn.Linear(8, 3)
        self.need, self.read = need, read
        self.mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if masked else None
        self.padded = padded

    def forward(self, x: Tensor) -> Tensor:
        padding = x[..., 0] > 9 if self.padded else None
        found, weights = self.inner(x, x, x, padding, self.need, self.mask)
        y: Tensor = self.head(x + found)
        return y + weights.mean() if self.read else y


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 8, 3, padding=1), nn.Conv1d(8, 6, 3, padding=1)
        self.inner, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.inner(self.b(self.a(x).relu()).transpose(1, 2))[0][:, -1])
        return y


class Branching(nn.Module):
    """Goes one way or the other by what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z: Tensor = self.b(y if y.sum() > 0 else -y)
        return z
