"""What people give as a folder or a file, by path or URL, in settings and on the command line.

fsspec takes whatever has no `://` for a local path: `s3:/bucket/runs` would be a folder `s3:` here, `nas:/runs` one
that is called `nas:`. What is probably not meant as it would be read is refused here, in one place for all of them.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

import fsspec

HOSTS = {"s3", "s3a", "gs", "gcs", "http", "https", "ftp", "sftp", "ssh"}
"""Schemes of URLs that say a host or a bucket first."""
LOCAL = {"file", "local"}
"""Schemes of this machine's own files."""


def checked(url: str) -> str:
    """The path or URL; of fsspec's chained ones (`simplecache::s3://...`) each part is looked at. Raises ValueError."""
    for part in url.split("::"):
        if re.match(r"[^/]*:/{1,2}[^/]*:[^/]*@", part):
            raise ValueError(
                "holds a password, which would be written to logs and manifests; give it by the environment"
            )
        why = _wrong(part)
        if why is not None:
            raise ValueError(why)
    return url


def local(path: str) -> str:
    """A path on this machine. Raises ValueError for a URL."""
    if "://" in checked(path):
        raise ValueError(f"a folder on this machine is needed, not the URL {path}")
    return path


def _wrong(part: str) -> str | None:
    """Why a path or URL is not as it was meant, or None."""
    if not part.strip() or re.search(r"[\0-\x1f\x7f]", part):
        return f"{part!r} is no place"
    if re.match(r"\$\w", part) or "${" in part:
        return f"{part}: variables are not filled in here; write out what it stands for, or give it by --set in a shell"
    if re.match(r"[A-Za-z]:[/\\]", part):
        return f"{part} is a path of Windows; give it as this machine has it (under WSL: /mnt/{part[0].lower()}/...)"
    scheme, proper, rest = part.partition("://")
    if proper and re.fullmatch(r"[\w+.-]+", scheme):
        return _wrong_url(part, scheme, rest)
    return _wrong_path(part)


def _wrong_path(part: str) -> str | None:
    """The same for what has no `scheme://` before it, and so would be a path here."""
    found = re.match(r"([^:/\\]*)(:?)([/\\]*)(.*)", part)
    assert found is not None
    name, colon, slashes, rest = found.groups()
    scheme, known = name.lower(), name.lower() in fsspec.available_protocols()
    if (colon and (known or slashes)) or (scheme in HOSTS and len(slashes) > 1):
        way = f"{scheme}://{'/' if scheme in LOCAL else ''}{rest}" if known else "SCHEME://PLACE"
        return f"{part} would be in a folder {name}{colon} here; a URL reads {way}, and such a path ./{part}"
    return None


def _wrong_url(part: str, scheme: str, rest: str) -> str | None:
    """The same for what begins with `scheme://`."""
    known = fsspec.available_protocols()
    if scheme not in known:
        near = get_close_matches(scheme.lower(), known, n=1)
        return f"{part}: there is no scheme {scheme}://{f'; did you mean {near[0]}://?' if near else ''}"
    if scheme in HOSTS and re.match(r"/|\Z", rest):
        return f"{part} lacks a host or a bucket, which stands behind {scheme}://"
    if scheme in LOCAL and re.search("%[0-9A-Fa-f]{2}", rest):
        return f"{part} has characters written as %.. here, which would be read as they stand; give the path itself"
    if scheme in LOCAL and not rest.startswith("/"):
        return f"{part} is no absolute path, which would read {scheme}:///{rest}; or leave {scheme}:// out"
    return None
