"""What files and folders of a tree are, by their names alone: pictures, what systems leave about, or something else."""

from __future__ import annotations

import os

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
    *("__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb", "lost+found"),
    *("system volume information", "$recycle.bin", "found.000", "__pycache__", "thumbs.db", "desktop.ini"),
)
"""Names, in small letters, that macOS, Windows, Synology, QNAP, ext4 and Python give to what is theirs."""


def is_picture(name: str) -> bool:
    """Whether a file is a picture, of a kind that is read or not."""
    return name.lower().endswith((*READ, *UNREAD))


def is_systems(name: str) -> bool:
    """Whether a file or folder is hidden or a system's, and so no class and no sample."""
    return name.startswith(".") or name.lower() in SYSTEMS


def passed_over(name: str, folder: bool = False) -> str:
    """What to call something that is none of ours, in a count of such."""
    if folder or is_systems(name):
        return f"{name}/" if folder else name
    ending = os.path.splitext(name)[1].lower()
    return f"*{ending}" if ending else "files without an ending"
