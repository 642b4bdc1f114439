"""The three networks of the Deep Motif Dashboard: convolutions, an LSTM, and an LSTM of what convolutions find."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F


class Motif(nn.Module):
    """Sequences of bases [n, t], numbers 0 to 3, to logits [n, labels]."""

    def __init__(self, kind: Literal["cnn", "lstm", "both"], labels: int, channels: int = 64, hidden: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, channels, 11, padding=5) if kind != "lstm" else None
        self.second = nn.Conv1d(channels, channels, 7, padding=3) if kind == "cnn" else None
        inputs = 4 if kind == "lstm" else channels
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True, bidirectional=True) if kind != "cnn" else None
        self.head = nn.Linear(channels if kind == "cnn" else 2 * hidden, labels)

    def forward(self, bases: Tensor) -> Tensor:
        """The strongest place of each channel along the sequence decides."""
        x = F.one_hot(bases, 4).float().transpose(1, 2)
        if self.first is not None:
            x = F.max_pool1d(F.relu(self.first(x)), 3)
        if self.second is not None:
            x = F.relu(self.second(x))
        if self.lstm is not None:
            x = self.lstm(x.transpose(1, 2))[0].transpose(1, 2)
        return self.head(x.amax(2))
