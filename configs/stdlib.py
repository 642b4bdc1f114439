"""Text that is wherever Python is: the standard library's own source, as tokens for language modelling."""

from __future__ import annotations

import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

LEFT_OUT = {"site-packages", "test", "tests", "encodings", "idlelib", "lib2to3", "turtledemo", "ensurepip"}
"""Folders without text: tables of characters, tests, and what is not in every Python."""


def samples(length: int = 128, vocabulary: int = 1024) -> dict[str, list[dict[str, Any]]]:
    """Windows of `length` tokens, `tokens` int32 [length], of a byte-pair tokenizer that is trained on `train`.

    By files: a twentieth of them each are val and test. Some 3 million tokens; Python's version says which.
    """
    texts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name, text in _files():
        number = zlib.crc32(name.encode()) % 20
        texts[{0: "val", 1: "test"}.get(number, "train")].append(text)
    tokenizer = _tokenizer(texts["train"], vocabulary)
    return {split: [{"tokens": row} for row in _windows(tokenizer, of, length)] for split, of in texts.items()}


def _files() -> Iterator[tuple[str, str]]:
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root)
        if not LEFT_OUT.intersection(path.parts) and not path.name.startswith("_sysconfigdata"):
            yield path.as_posix(), file.read_text(encoding="utf-8", errors="replace")


def _tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _windows(tokenizer: Tokenizer, texts: list[str], length: int) -> NDArray[np.int32]:
    """All texts in a row, cut into windows; what is left at the end is dropped."""
    numbers = np.concatenate([np.array(one.ids, np.int32) for one in tokenizer.encode_batch(texts)])
    return numbers[: len(numbers) // length * length].reshape(-1, length)
