"""Where the splits of a source lie: folders of class folders, patterns of shards, or tables, found by their names."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

from dualprune.stages.data.format import SPLITS, DataError
from dualprune.stages.data.make.names import is_systems
from dualprune.stages.files.folder import Folder

WORDS = {"train": "train(ing)?", "val": "val(idation)?", "test": "test(ing)?"}
"""What says in a file's name which split it is of, with no letter before or after it."""
TABLES = (".csv", ".tsv", ".jsonl")


def is_table(place: str) -> bool:
    """Whether a place is a table by its name, compressed or not."""
    return place.lower().removesuffix(".gz").endswith(TABLES)


def places(source: str, given: Mapping[str, str], held: bool = False) -> dict[str, str]:
    """Where the splits of the folder `source` lie: folders of class folders, patterns of shards, or tables.

    What is not `given` is looked for by its name: the folder `train` of class folders or of shards, or shards or a
    table with the word `train` in their names. Where samples are `held` out to become val, what is called val there is
    test. Raises DataError.
    """
    source = source.rstrip("/")
    folder = Folder(source)
    if folder.local and os.path.isfile(folder.path()):
        raise DataError(f"{source} is a file; give the folder that it is in")
    names = folder.names()
    found: dict[str, str] = {}
    whose: dict[str, str] = {}
    for split in SPLITS:
        if split in given:
            found[split] = within(source, given[split])
        elif not (split == "val" and held and "test" in given):  # or val is not asked for, or was given for the test
            place = _found(source, split, names, whose)
            if place is not None:
                found[split] = place
    if held and "val" in found:
        if "test" in found:
            ways = "leave out --held, or say with `--split test=PLACE` what is to be test"
            raise DataError(f"{source} has val and test already; {ways}")
        found["test"] = found.pop("val")
    lacking = [split for split in SPLITS if split not in found and not (split == "val" and held)]
    if lacking:
        raise DataError(_lacking(folder, source, names, lacking))
    return found


def whole(source: str, given: Mapping[str, str]) -> dict[str, str]:
    """The one place that all splits are cut out of: `source`, or what is given for train. Raises DataError."""
    source = source.rstrip("/")
    if set(given) - {"train"}:
        raise DataError(f"--cut makes val and test of samples of train: leave out {min(set(given) - {'train'})}=")
    folder = Folder(source)
    file = folder.local and os.path.isfile(folder.path())
    names = [] if file else folder.names()
    there = [split for split in SPLITS if split in names]
    if "train" not in given and len(there) > 1:
        raise DataError(f"{source} has {' and '.join(there)} already; leave out --cut, or give --split train=PLACE")
    if not file and not names and not folder.exists():
        raise DataError(f"there is no {source}")
    return {"train": within(source, given["train"]) if "train" in given else source}


def within(source: str, place: str) -> str:
    """A place that was given, relative to the source unless it is absolute."""
    return place if "://" in place or place.startswith("/") else f"{source}/{place}"


def _found(source: str, split: str, names: Sequence[str], whose: dict[str, str]) -> str | None:
    """Where a split lies, by its name; which shards are of which split is noted in `whose`. Raises DataError."""
    if split in names:
        return _inside(source, split)
    own = [name for name in names if name.endswith(".tar") and _word(split, name)]
    if own:
        twice = next((name for name in own if name in whose), None)
        if twice is not None:
            raise DataError(_unclear(f"{source}/{twice}", f"{whose[twice]} or {split}"))
        whose |= dict.fromkeys(own, split)
        return f"{source}/{_pattern(split, own, names, source)}"
    words = (split, "dev") if split == "val" else (split,)
    tables = [name for name in names if is_table(name) and any(_word(word, name) for word in words)]
    if len(tables) > 1:
        raise DataError(_unclear(f"{source}/{tables[0]} or {tables[1]}", split))
    return f"{source}/{tables[0]}" if tables else None


def _inside(source: str, split: str) -> str:
    """What is in the folder that has a split's name: shards or class folders."""
    folder = Folder(source) / split
    if not any(name.endswith(".tar") for name in folder.names()):
        return f"{source}/{split}"
    inner = _folders(folder)
    if inner:
        ways = f"`--split {split}={split}` takes the folders, `--split '{split}={split}/*.tar'` the others"
        raise DataError(f"{source}/{split} holds shards (*.tar) and folders, such as {inner[0]}; {ways}")
    return f"{source}/{split}/*.tar"


def _lacking(folder: Folder, source: str, names: Sequence[str], lacking: Sequence[str]) -> str:
    """What to say of splits that are not there."""
    if not names and not folder.exists():
        return f"there is no folder {source}"
    there = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
    hints = [f"`--split {lacking[0]}=PLACE` says where it is"]
    if list(lacking) == ["test"]:
        hints.append("`--held N` makes N samples of train val, and what is called val there test")
    elif list(lacking) == ["val"]:
        hints.append("`--held N` makes N samples of train val")
    elif len(lacking) == len(SPLITS):
        hints.append("`--cut 0.1,0.1` makes a tenth of all samples val, and one test")
    return f"{source} has nothing for {' and '.join(lacking)}: it holds {there}. {'; '.join(hints)}"


def _folders(folder: Folder) -> list[str]:
    """Names of the folders in a folder, but for hidden ones and systems'."""
    found = [
        entry["name"].rstrip("/")
        for entry in folder.fs.ls(folder.root, detail=True)
        if entry["type"] == "directory" or (folder.local and os.path.isdir(entry["name"]))
    ]
    names = [posixpath.basename(path) for path in found if path != folder.root]  # object stores may list that too
    return sorted(name for name in names if not is_systems(name))


def _word(split: str, name: str) -> re.Match[str] | None:
    return re.search(f"(?<![a-z]){WORDS.get(split, split)}(?![a-z])", name, re.IGNORECASE)


def _pattern(split: str, own: Sequence[str], names: Sequence[str], source: str) -> str:
    """A pattern that matches a split's shards and no other file. Raises DataError if no plain one does."""
    word = _word(split, own[0])
    assert word is not None
    text = word[0][: len(split)]
    others: list[str] = []
    for before in ("*", "", "*[!a-zA-Z]"):
        for after in ("*.tar", "[!a-zA-Z]*.tar"):
            matched = [name for name in names if fnmatch(name, f"{before}{text}{after}")]
            if matched == own:
                return f"{before}{text}{after}"
            others = others or sorted(set(matched) ^ set(own))
    raise DataError(_unclear(f"{source}/{others[0]}", f"{split} or not"))


def _unclear(file: str, choice: str) -> str:
    return f"{file} may be of {choice}, by its name; say which shards are whose with `--split NAME=PATTERN`"
