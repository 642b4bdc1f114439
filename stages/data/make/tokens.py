"""Text as numbers of tokens, by a `tokenizer.json` or a BERT's `vocab.txt`, with the library `tokenizers`."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualprune.stages.data.format import DataError
from dualprune.stages.files.folder import Folder, sha256


class Tokenizer:
    """A tokenizer, and the `sha256` of its file."""

    def __init__(self, place: str, longest: int) -> None:
        """Of the file at a path or URL; what it makes of a text is cut off after `longest` tokens. Raises DataError."""
        data = _read(place)
        self.sha256 = sha256(data)
        self._made = _of_vocabulary(place, data) if place.endswith(".txt") else _of_json(place, data)
        self._made.enable_truncation(longest)
        self._made.no_padding()

    def __call__(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Of each text its tokens' numbers, with the special ones around them."""
        return [np.array(one.ids, dtype=np.int32) for one in self._made.encode_batch(list(texts))]


def _read(place: str) -> bytes:
    base, _, name = place.rpartition("/")
    try:
        return Folder(base or ".").read(name)
    except OSError as error:
        raise DataError(f"the tokenizer {place} can't be read: {error}") from None


def _library() -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads warn of every fork
    try:
        import tokenizers
    except ImportError:
        raise DataError("text is made tokens by the library tokenizers: pip install 'dualprune[text]'") from None
    return tokenizers


def _of_json(place: str, data: bytes) -> Any:
    try:
        return _library().Tokenizer.from_str(data.decode())
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises plain Exception
        raise DataError(f"{place} is no tokenizer.json that can be read: {error}") from None


def _of_vocabulary(place: str, data: bytes) -> Any:
    """BERT's: words and their pieces, [CLS] and [SEP] around a text; lower case if all of the vocabulary is."""
    lines = io.StringIO(data.decode("utf-8", "replace"), newline=None)  # a token may be another end of a line
    tokens = [line.removesuffix("\n") for line in lines]
    numbers = {token: number for number, token in enumerate(tokens)}
    special = {name: numbers[name] for name in ("[UNK]", "[CLS]", "[SEP]") if name in numbers}
    if len(special) < 3:
        raise DataError(f"{place} is no BERT's vocabulary: it lacks [UNK], [CLS] or [SEP]; give a tokenizer.json")
    lower = not any(re.search("[A-Z]", token) for token in tokens if not token.startswith("["))
    parts = _library()
    made = parts.Tokenizer(parts.models.WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = parts.normalizers.BertNormalizer(lowercase=lower)
    made.pre_tokenizer = parts.pre_tokenizers.BertPreTokenizer()
    made.post_processor = parts.processors.BertProcessing(*((name, special[name]) for name in ("[SEP]", "[CLS]")))
    return made
