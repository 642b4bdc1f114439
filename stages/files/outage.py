"""When a filesystem can't be used: which errors are transient, and what a user is told of the others.

Kinds of filesystems raise errors of their own, which are known by the names of their classes here, so
that none of their packages has to be there.
"""

from __future__ import annotations

import errno
import socket

KEPT = "then run the same command again; what was finished or checkpointed is kept"

_ADVICE = {
    errno.ENOSPC: "has no space left: free some (`dualprune store gc` says what of it can go)",
    errno.EDQUOT: "has used up its quota: free some (`dualprune store gc` says what of it can go) or raise it",
    errno.EROFS: "is read-only: make it writable",
    errno.EACCES: "refuses access: look at its permissions, or at your credentials",
    errno.EPERM: "refuses access: look at its permissions, or at your credentials",
    errno.EIO: "reports an I/O error: look at its disk",
}
_PASSING = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENOTCONN,
    errno.EREMOTEIO,
    errno.ESTALE,
}
_PASSING_NAMES = {
    "ConnectionError",  # Python's, botocore's
    "TimeoutError",
    "gaierror",  # Python's: a name that no server knows at the moment
    "HTTPClientError",  # botocore's
    "ResponseParserError",
    "ClientConnectionError",  # aiohttp's
    "ClientPayloadError",
}


class StoreError(OSError):
    """A store that can't be used as it is. The message says which, why, and what to do."""


class StoreAway(ConnectionError):
    """A store that can't be reached now, which may be transient. The message says which, and what to do if it lasts."""


def passes(error: BaseException, local: bool) -> bool:
    """Whether the same call may well succeed in a while."""
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & _PASSING_NAMES:
        return True
    if "ClientResponseError" in names:  # aiohttp's, for what a web server answers
        return getattr(error, "status", 0) in (408, 425, 429, 500, 502, 503, 504)
    # What a service answers and fsspec has no name for becomes EIO: most of that is transient. A disk's EIO is not.
    return isinstance(error, OSError) and (error.errno in _PASSING or (error.errno == errno.EIO and not local))


def told(error: Exception, store: str, local: bool) -> Exception:
    """What a user is to be told in place of `error`, or `error` itself where it says enough."""
    if isinstance(error, (StoreError, StoreAway)):
        return error
    if passes(error, local):
        return StoreAway(f"the store {store} does not answer ({_short(error)}): wait until it does, {KEPT}")
    if "NoCredentialsError" in {cls.__name__ for cls in type(error).__mro__}:
        return StoreError(f"the store {store} wants credentials, and there are none in this process's environment")
    if isinstance(error, OSError):
        number = errno.EACCES if isinstance(error, PermissionError) else error.errno
        if number in _ADVICE:
            return StoreError(f"the store {store} {_ADVICE[number]}, {KEPT} ({_short(error)})")
    return error


def gone(store: str) -> StoreAway:
    """The error for a store that is not where it was."""
    where = f"the store {store} is not there on {socket.gethostname()}"
    return StoreAway(f"{where}: it is away, or not shared with this machine; bring it back, {KEPT}")


def _short(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
