"""Passwords and keys in addresses are not shown."""

from __future__ import annotations

import pytest

from dualprune.stages.files.public import public


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("s3://key:secret@bucket/store", "s3://***@bucket/store"),
        ("https://user@host/data.tar", "https://***@host/data.tar"),
        ("https://host/x?X-Amz-Signature=abc&part=2", "https://host/x?X-Amz-Signature=***&part=2"),
        ("https://host/x?part=2&access_token=abc#top", "https://host/x?part=2&access_token=***#top"),
        ("s3://bucket/store", "s3://bucket/store"),
        ("mail me@home: a?b", "mail me@home: a?b"),
        ("layer.*.weight", "layer.*.weight"),
    ],
)
def test_an_address(given: str, shown: str) -> None:
    assert public({"a": [given, 1, None]}) == {"a": [shown, 1, None]}
