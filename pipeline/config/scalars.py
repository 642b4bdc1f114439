"""What a plain word in YAML is: nothing, yes or no, a number or text, as people mean it.

YAML 1.1 has octal numbers with a leading zero (`010` is 8), numbers to the base 60 (`1:30` is 90) and dates, all read
without a word. Here `010` is 10, as in YAML 1.2, and `1:30` and `2024-01-01` are text, which a setting that wants a
number refuses. `yes`, `no`, `on` and `off`, `0b101`, `0o17`, `0x1f`, `1_000`, `1e3` and `.5` are what they look like.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

TAG = "tag:yaml.org,2002:"
"""What the names of YAML's own types begin with."""

_WHOLE = re.compile(
    r"([-+]?)(0b[01]+(?:_[01]+)*|0o[0-7]+(?:_[0-7]+)*|0x[0-9a-fA-F]+(?:_[0-9a-fA-F]+)*|\d+(?:_\d+)*)\Z", re.A
)
LONGEST = 100
"""Digits of a whole number; Python refuses thousands of them, in other words."""
_DIGITS = r"\d+(?:_\d+)*"
_REAL = re.compile(
    rf"[-+]?(?:{_DIGITS}[eE][-+]?\d+|(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][-+]?\d+)?)\Z"
    r"|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z",
    re.A,
)
_TRUTH = re.compile(r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)\Z")
_NOTHING = re.compile(r"(?:~|null|Null|NULL|)\Z")

KINDS: tuple[tuple[str, re.Pattern[str], Iterable[str]], ...] = (
    (f"{TAG}bool", _TRUTH, "yYnNtTfFoO"),
    (f"{TAG}null", _NOTHING, ("~", "n", "N", "")),
    (f"{TAG}int", _WHOLE, "-+0123456789"),
    (f"{TAG}float", _REAL, "-+0123456789."),
    (f"{TAG}merge", re.compile(r"<<\Z"), "<"),
)
"""Types with what their words look like and the first letters of those, in the order in which they are tried."""


def truth(text: str) -> bool:
    """The value of a word for yes or no. Raises ValueError."""
    if not _TRUTH.match(text):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() in ("yes", "true", "on")


def whole(text: str) -> int:
    """A whole number's value. Raises ValueError, for one that is longer than any that is meant too."""
    found = _WHOLE.match(text)
    if not found:
        raise ValueError(f"{text!r} is no whole number")
    sign, digits = found[1], found[2]
    if len(digits) > LONGEST:
        raise ValueError(f"a number of {len(digits)} digits can't be meant; put it in quotes if it is text")
    value = int(digits, 0) if digits[:2] in ("0b", "0o", "0x") else int(digits)
    return -value if sign == "-" else value


def real(text: str) -> float:
    """A number's value; one that is too large for a float is infinite. Raises ValueError."""
    if not _REAL.match(text) and not _WHOLE.match(text):
        raise ValueError(f"{text!r} is no number")
    plain = text.lower().replace("_", "")
    if plain == ".nan":
        return math.nan
    return float(plain.replace(".inf", "inf")) if "inf" in plain else float(plain if _REAL.match(text) else whole(text))
