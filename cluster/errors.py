"""What goes wrong with a cluster as a whole, in words for the one who started the run."""

from __future__ import annotations


class ClusterError(RuntimeError):
    """A cluster that can't be reached or can't do what is asked."""


class NotStarted(ClusterError):
    """A Ray of this machine's own that does not come up, for a reason that is not known beforehand."""


class ClusterGone(ClusterError):
    """A cluster that was there, or what a run needs of it, and is no more."""
