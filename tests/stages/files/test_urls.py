"""Paths and URLs that people give: what can be meant, and what can't."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from dualprune.stages.files.urls import checked, local
from dualprune.stages.settings.data import Data
from dualprune.stages.settings.training import Model

MEANT = [
    "runs",
    "./runs",
    "../runs/",
    "~/runs",
    "/data/runs",
    "C:runs",
    "runs/2024-01-01T10:30:00",
    "2024-01-01T10:30",
    "run:1",
    "./s3:/runs",
    "/data/nas:/x",
    "data//train",
    "s3/runs",
    "a$b",
    "my runs",
    "läufe",
    "s3://bucket/runs",
    "gs://bucket",
    "https://host:8000/w.pt?from=http:/x",
    "http://user@host/x",
    "hdfs:///runs",
    "file:///data/runs",
    "memory://runs",
    "simplecache::s3://bucket/runs",
    "zip://*.tar::https://host/x.zip",
    "s3://bucket/train-{000..100}.tar",
]
REFUSED = {
    "s3:/bucket/runs": "a URL reads s3://bucket/runs, and such a path ./s3:/bucket/runs",
    "s3:bucket/runs": "a URL reads s3://bucket/runs",
    "s3//bucket/runs": "a URL reads s3://bucket/runs",
    "s3:\\bucket\\runs": "a URL reads s3://bucket",
    "S3:/bucket": "a URL reads s3://bucket",
    "S3://bucket": "there is no scheme S3://; did you mean s3://?",
    "s3:": "would be in a folder s3:",
    "s3://": "lacks a host or a bucket",
    "s3:///bucket/runs": "lacks a host or a bucket",
    "https:/host/x": "a URL reads https://host/x",
    "https:///host/x": "lacks a host",
    "gs:/bucket": "a URL reads gs://bucket",
    "hdfs:/runs": "a URL reads hdfs://runs",
    "file:/data": "a URL reads file:///data",
    "file://data": "which would read file:///data",
    "file:///data/my%20runs": "give the path itself",
    "memory:/runs": "a URL reads memory://runs",
    "htps://host/x": "there is no scheme htps://; did you mean https://?",
    "foo://x": "there is no scheme foo://",
    "nas:/export/runs": "would be in a folder nas: here",
    "user@nas:/export": "would be in a folder user@nas: here",
    "10.0.0.1:/export": "would be in a folder 10.0.0.1: here",
    "C:\\runs": "is a path of Windows",
    "c:/runs": "under WSL: /mnt/c/...",
    "$HOME/runs": "variables are not filled in here",
    "s3://${BUCKET}/runs": "variables are not filled in here",
    "": "is no place",
    "  ": "is no place",
    "a\nb": "is no place",
    "a\0b": "is no place",
    "simplecache::s3:/bucket": "a URL reads s3://bucket",
    "simplecache::foo://x": "there is no scheme foo://",
    "http:/user:pass@host/x": "holds a password",
    "simplecache::http://user:pass@host/x": "holds a password",
}


@pytest.mark.parametrize("place", MEANT)
def test_what_is_meant_is_taken_as_it_is(place: str) -> None:
    assert checked(place) == place


@pytest.mark.parametrize("place", REFUSED)
def test_what_would_be_another_place_is_refused(place: str) -> None:
    """fsspec takes most of these for local paths, without a word. No password is repeated."""
    with pytest.raises(ValueError, match=r".") as caught:
        checked(place)
    assert REFUSED[place] in str(caught.value)
    assert "pass@" not in str(caught.value)


def test_what_is_on_this_machine_has_no_url() -> None:
    assert local("/data/mnist") == "/data/mnist"
    with pytest.raises(ValueError, match="not the URL s3://bucket/mnist"):
        local("s3://bucket/mnist")


def test_settings_hold_no_other_places() -> None:
    """Shards, folders and weights; those of torchvision are named, and placed nowhere."""
    assert Model(name="lenet5", weights="torchvision:IMAGENET1K_V1").weights == "torchvision:IMAGENET1K_V1"
    with pytest.raises(ValidationError, match="a URL reads s3://bucket"):
        Model(name="lenet5", weights="s3:/bucket/w.pt")
    with pytest.raises(ValidationError, match="a URL reads s3://bucket"):
        Data(shards="s3:/bucket/shards")
    with pytest.raises(ValidationError, match="not the URL s3://bucket/mnist"):
        Data(source="mnist", folder="s3://bucket/mnist")
