"""What files and folders of a tree are, by their names alone: pictures, what systems leave about, or something else."""

from __future__ import annotations

import os
import re

READ = (
    *(
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".pjpeg",
        ".pjp",
        ".mpo",
        ".png",
        ".apng",
        ".gif",
        ".webp",
        ".avif",
        ".bmp",
        ".dib",
    ),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
)
"""Ends of names of pictures that are read."""
UNREAD = (
    *(".heic", ".heif", ".hif", ".jxl", ".svg", ".psd", ".ico", ".tga", ".pcx", ".exr", ".hdr", ".dcm", ".eps"),
    *(".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw"),
)
"""Of pictures that are not, and so are bad samples."""
SYSTEMS = (
    *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder", "icon\r"),
    *("system volume information", "$recycle.bin", "recycler", "recycled", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb", "@sharebin", "@tmp"),
    *("lost+found", "~snapshot", "aquota.user", "aquota.group", "__pycache__", "cvs", "_gsdata_"),
)
"""Names, in small letters, of what is macOS's, Windows's, Synology's, QNAP's, NetApp's, ext4's or a tool's."""
_CHECKED = re.compile(r"found\.\d{3}")
"""Windows's, of what a check of a disk has found."""


def is_picture(name: str) -> bool:
    """Whether a file is a picture, of a kind that is read or not."""
    return name.lower().endswith((*READ, *UNREAD))


def is_systems(name: str) -> bool:
    """Whether a file or folder is hidden or a system's, and so no class and no sample."""
    low = name.lower()
    return name.startswith(".") or low in SYSTEMS or _CHECKED.fullmatch(low) is not None


def passed_over(name: str, folder: bool = False) -> str:
    """What to call something that is none of ours, in a count of such."""
    if folder or is_systems(name):
        return f"{name}/" if folder else name
    ending = os.path.splitext(name)[1].lower()
    return f"*{ending}" if ending else "files without an ending"
