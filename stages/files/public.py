"""What may be shown and sent of settings: addresses without the passwords and keys in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

_USER = re.compile(r"(\b[a-zA-Z][\w+.-]*://)[^/\s@]+@")
_SECRET = re.compile(
    r"([?&][^=&\s]*(?:key|token|secret|sig|password|passwd|credential)[^=&\s]*=)[^&#\s]+", re.IGNORECASE
)


def public(value: Any) -> Any:
    """The same JSON, with HIDDEN in place of who logs in where an address says it (`s3://key:secret@bucket`), and of
    what a query's secret parameters hold (`?token=...`)."""
    if isinstance(value, str):
        return _SECRET.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", value))
    if isinstance(value, Mapping):
        return {name: public(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [public(one) for one in value]
    return value
