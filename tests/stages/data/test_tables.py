"""Tables as shards: what becomes of columns, rows that are bad, tokens, and tables that are refused by name."""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dualprune.stages.data.format import DataError, digest, read_manifest
from dualprune.stages.data.make.tables import Wanted, convert_tables, table
from dualprune.stages.data.make.tokens import Tokenizer
from dualprune.stages.data.read.memory import open_split
from dualprune.stages.objectives.base import Batch
from dualprune.stages.settings.data import Cut, Data

CPU = torch.device("cpu")
CUT = Cut(val=0.2, test=0.2)
ROWS = [("ab" * (1 + n % 3), n % 2, n / 4, n) for n in range(20)]
CSV = "text,label,x,y\n" + "".join(f'"{t}, {t}",{y},{x},{n}\n' for t, y, x, n in ROWS)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ab", "##ab", ",", "good", "bad"]


def made(folder: Path, text: str = CSV, name: str = "it.csv", cut: Cut | None = CUT, **wanted: Any) -> dict[str, Any]:
    """The manifest of shards in folder / out of one table that is cut into three."""
    (folder / name).write_text(text)
    return convert_tables(str(folder / "out"), "it", {"train": str(folder / name)}, Wanted(**wanted), cut)


def batch(folder: Path, split: str = "train") -> Batch:
    """All of a split."""
    url = str(folder / "out")
    manifest = read_manifest(url)
    data = open_split(url, split, digest(manifest), Data(shards=url), 0, CPU, 2)
    (found,) = data.evaluation([np.arange(len(data))])
    return found


def texts(found: Batch, name: str = "text") -> list[str]:
    pairs = zip(found[name], found[f"{name}_mask"], strict=True)
    return [bytes(row[mask].tolist()).decode() for row, mask in pairs]


def test_numbers_are_one_array_text_is_text_and_a_label_a_number(tmp_path: Path) -> None:
    manifest = made(tmp_path, label="label")
    counts = {split: entry["samples"] for split, entry in manifest["splits"].items()}
    assert counts == {"train": 12, "val": 4, "test": 4}
    assert manifest["labels"] == 2
    found = [batch(tmp_path, split) for split in counts]
    assert set(found[0]) == {"text", "text_mask", "label", "numbers"}
    rows = sorted(
        (int(numbers[1]), text, int(label), float(numbers[0]))
        for one in found
        for text, label, numbers in zip(texts(one), one["label"], one["numbers"], strict=True)
    )
    assert rows == [(n, f"{t}, {t}", y, x) for t, y, x, n in ROWS]


def test_a_target_is_a_number_and_columns_are_chosen(tmp_path: Path) -> None:
    made(tmp_path, target="y", columns=("x",))
    found = batch(tmp_path)
    assert set(found) == {"target", "numbers"}
    assert torch.equal(found["target"], found["numbers"][:, 0] * 4)


def test_numbers_are_standardised_by_train_alone(tmp_path: Path) -> None:
    """Columns that are alike everywhere become 0; the manifest says by what all were divided."""
    text = "y,x,n,same\n" + "".join(f"{n % 2},{n / 4},{n * n},3\n" for n in range(20))
    plain = made(tmp_path, text, label="y")
    before = {split: batch(tmp_path, split)["numbers"].double() for split in ("train", "test")}
    assert "standardised" not in plain["made"]
    scaled = tmp_path / "scaled"
    scaled.mkdir()
    manifest = made(scaled, text, label="y", standardise=True)
    mean, deviation = before["train"].mean(0), before["train"].std(0, correction=0)
    deviation[2] = 1
    for split, numbers in before.items():
        assert torch.allclose(batch(scaled, split)["numbers"].double(), (numbers - mean) / deviation, atol=1e-6)
    assert list(manifest["standardised"]) == ["x", "n", "same"]
    assert manifest["standardised"]["n"] == pytest.approx([float(mean[1]), float(deviation[1])])
    with pytest.raises(DataError, match="has no columns of numbers to standardise"):
        made(tmp_path / "scaled", "y,t\n0,a\n1,b\n" * 9, "words.csv", label="y", standardise=True)


def test_names_of_classes_are_numbered_in_their_order(tmp_path: Path) -> None:
    text = "a\tb\n" + "".join(f"{n}\t{('zebra', 'ape')[n % 2]}\n" for n in range(10))
    manifest = made(tmp_path, text, "it.tsv", label="2")
    assert manifest["classes"] == ["ape", "zebra"]
    found = batch(tmp_path)
    assert (found["numbers"][:, 0] % 2 == 1 - found["label"]).all()


def test_quotes_are_quotes_in_csv_alone(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('x\ty\n"a\t1\nb"\t2\n')
    (tmp_path / "a.csv").write_text('x,y\n"a, ""b""",1\n')
    assert list(table(str(tmp_path / "a.tsv")).rows.values()) == [['"a', "1"], ['b"', "2"]]
    assert list(table(str(tmp_path / "a.csv")).rows.values()) == [['a, "b"', "1"]]


def test_objects_a_line_compressed_or_not(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"v": [n, n + 1], "y": n / 2, "t": "é"}) + "\n" for n in range(10))
    (tmp_path / "it.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    convert_tables(str(tmp_path / "out"), "it", {"train": str(tmp_path / "it.jsonl.gz")}, Wanted(target="y"), CUT)
    found = batch(tmp_path)
    assert set(found) == {"v", "target", "text", "text_mask"}
    assert found["v"][:, 0].tolist() == (found["target"] * 2).tolist()
    assert texts(found)[0] == "é"


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_text_in_objects_may_hold_other_ends_of_lines(tmp_path: Path, ends: str) -> None:
    """As JSON allows: a line separator, a next line."""
    lines = [json.dumps({"t": text, "y": 1}, ensure_ascii=False) for text in ("a\u2028b", "c\x85d", "e")]
    (tmp_path / "a.jsonl").write_bytes(ends.join(lines).encode())
    found = table(str(tmp_path / "a.jsonl"))
    assert found.rows == {1: ["a\u2028b", 1], 2: ["c\x85d", 1], 3: ["e", 1]}
    assert not found.bad


@pytest.mark.parametrize("columns", [("a b", "a-b"), ("label", "text"), ("numbers", "text")])
def test_columns_that_would_be_one_field_are_refused(tmp_path: Path, columns: tuple[str, str]) -> None:
    """One of them would be lost."""
    (tmp_path / "a.csv").write_text(f"kind,x,{','.join(columns)}\n" + "0,1.5,one,two\n1,2.5,three,four\n" * 5)
    with pytest.raises(DataError, match=r"a\.csv: two of its columns would be the field (a_b|label|numbers); rename"):
        convert_tables(str(tmp_path / "out"), "it", {"train": str(tmp_path / "a.csv")}, Wanted(label="kind"), CUT)


def test_three_tables_whose_columns_have_other_names(tmp_path: Path) -> None:
    for split, column in (("train", "sentence"), ("val", "content"), ("test", "text")):
        (tmp_path / f"{split}.tsv").write_text(f"label\t{column}\n0\tbad {split}\n1\tgood {split}\n")
    where = {split: str(tmp_path / f"{split}.tsv") for split in ("train", "val", "test")}
    convert_tables(str(tmp_path / "out"), "it", where, Wanted(label="1", columns=("2",)), None)
    assert texts(batch(tmp_path, "val")) == ["bad val", "good val"]


def test_bad_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    text = CSV.replace("2.5,10", "2.5").replace("3.0,12", "nan,12").replace(",1,3.75,15", ",one,3.75,15")
    manifest = made(tmp_path, text, label="label", bad=0.15)
    assert sum(entry["samples"] for entry in manifest["splits"].values()) == 17
    (skipped,) = manifest["splits"]["train"]["skipped"].values()
    assert {line.rpartition(", ")[2]: why for line, why in skipped.items()} == {
        "line 12": "it has 3 columns, and the first line 4",
        "line 14": "x is 'nan', and no number",
        "line 17": "its label is 'one', and no whole number",
    }
    with pytest.raises(DataError, match=r"3 of 20 rows are bad, such as .*it.csv, line 12: .*; `bad` allows"):
        convert_tables(str(tmp_path / "b"), "it", {"train": str(tmp_path / "it.csv")}, Wanted("label", bad=0.1), CUT)


def test_a_label_that_train_lacks_is_bad(tmp_path: Path) -> None:
    for split, names in (("train", "ab"), ("val", "ac"), ("test", "ab")):
        (tmp_path / f"{split}.csv").write_text("x,y\n" + "".join(f"1,{name}\n" for name in names))
    where = {split: str(tmp_path / f"{split}.csv") for split in ("train", "val", "test")}
    manifest = convert_tables(str(tmp_path / "out"), "it", where, Wanted(label="y"), None)
    (skipped,) = manifest["splits"]["val"]["skipped"].values()
    assert skipped == {f"{where['val']}, line 3": "its label is 'c', which train does not have"}


@pytest.mark.parametrize(
    ("text", "wanted", "said"),
    [
        (CSV, {"label": "lable"}, "it.csv has no column lable; it has text, label, x, y"),
        (CSV, {"label": "5"}, "it.csv has no column 5"),
        (CSV, {"label": "label", "columns": ("z",)}, "it.csv has no column z"),
        ("a,a\n1,2\n", {"label": "a"}, "two columns are called 'a'"),
        ("a,b\n", {"label": "a"}, "it.csv has no rows"),
        ("", {"label": "a"}, "it.csv has no rows"),
        ("a,b\n1,2\n", {"label": "a"}, "2 of 1 samples can't be cut out of it"),
    ],
)
def test_what_is_no_table_is_refused_by_name(tmp_path: Path, text: str, wanted: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        made(tmp_path, text, **wanted)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", b"x,y\n1,2\n\xff,3\n", "a.csv is not UTF-8 in line 3"),
        ("a.csv.gz", b"x,y\n1,2\n", "a.csv.gz can't be read: Not a gzipped file"),
        ("a.jsonl", b"3\n", "a.jsonl has no rows; it is no JSON object"),
    ],
)
def test_a_file_that_can_not_be_read_is_refused_by_name(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=said):
        table(str(tmp_path / name))


def test_the_same_command_again_has_nothing_to_do_and_another_is_refused(tmp_path: Path) -> None:
    first = made(tmp_path, label="label")
    assert made(tmp_path, label="label") == first
    for text, wanted in ((CSV, {"target": "label"}), (CSV.replace("0.25", "0.5"), {"label": "label"})):
        with pytest.raises(DataError, match="holds shards of another source or with other options"):
            made(tmp_path, text, **wanted)


def test_tables_that_can_not_be_read_leave_nothing_in_the_way(tmp_path: Path) -> None:
    """Columns of another name in one of the tables, and too many bad rows: with other options it goes on."""
    (tmp_path / "test.csv").write_text(CSV.replace("label", "class"))
    (tmp_path / "it.csv").write_text(CSV + "short\n")
    where = {"train": str(tmp_path / "it.csv"), "val": str(tmp_path / "it.csv"), "test": str(tmp_path / "test.csv")}
    with pytest.raises(DataError, match=r"column label; it has text, class, x, y .or its number, from 1 on"):
        convert_tables(str(tmp_path / "out"), "it", where, Wanted(label="label", bad=0.5), None)
    with pytest.raises(DataError, match="1 of 21 rows are bad"):
        convert_tables(str(tmp_path / "out"), "it", where, Wanted(label="2", bad=0.0), None)
    manifest = convert_tables(str(tmp_path / "out"), "it", where, Wanted(label="2", columns=("1",), bad=0.5), None)
    assert manifest["splits"]["test"]["samples"] == 20


@pytest.mark.parametrize("kind", ["vocab.txt", "tokenizer.json"])
def test_text_becomes_tokens(tmp_path: Path, kind: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    file = tmp_path / kind
    if kind == "vocab.txt":
        file.write_text("\n".join(VOCABULARY))
    else:
        one = tokenizers.Tokenizer(tokenizers.models.WordLevel(dict(zip(VOCABULARY, range(9), strict=True)), "[UNK]"))
        one.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        one.save(str(file))
    manifest = made(tmp_path, label="label", columns=("text",), tokenizer=str(file), length=6)
    found = batch(tmp_path)
    rows = {tuple(row[mask].tolist()) for row, mask in zip(found["tokens"], found["tokens_mask"], strict=True)}
    expected = {
        "vocab.txt": {(2, 4, 6, 4, 3), (2, 4, 5, 6, 4, 3), (2, 4, 5, 5, 6, 3)},
        "tokenizer.json": {(4, 6, 4), (1, 6, 1)},  # all of one length, and padded all the same
    }
    assert rows == expected[kind]
    before = digest(manifest)
    file.write_text(file.read_text().replace("good", "great"))
    with pytest.raises(DataError, match="of another source or with other options"):
        made(tmp_path, label="label", columns=("text",), tokenizer=str(file), length=6)
    (tmp_path / "b").mkdir()
    again = made(tmp_path / "b", label="label", columns=("text",), tokenizer=str(file), length=6)
    assert digest(again) != before


def test_a_token_may_be_another_end_of_a_line(tmp_path: Path) -> None:
    """As in some vocabularies of many scripts: those behind it keep their numbers."""
    pytest.importorskip("tokenizers")
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(["[UNK]", "[CLS]", "[SEP]", "\u2028", "good"]).encode())
    assert Tokenizer(str(tmp_path / "vocab.txt"), 9)(["good"])[0].tolist() == [1, 4, 2]


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    with pytest.raises(DataError, match=r"pip install 'dualprune\[text\]'"):
        made(tmp_path, label="label", tokenizer=str(tmp_path / "vocab.txt"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("vocab.txt", "a\nb\n", r"it lacks \[UNK\], \[CLS\] or \[SEP\]"),
        ("tokenizer.json", "{}", "is no tokenizer.json that can be read"),
        (None, "", "can't be read"),
    ],
)
def test_what_is_no_tokenizer_is_refused_by_name(tmp_path: Path, name: str | None, text: str, said: str) -> None:
    pytest.importorskip("tokenizers")
    if name is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        made(tmp_path, label="label", tokenizer=str(tmp_path / (name or "nothing.json")))


def test_sst2_as_bert_has_it(tmp_path: Path) -> None:
    """Needs the original files: DUALPRUNE_DATA names a folder that holds text/sst2."""
    pytest.importorskip("tokenizers")
    root = os.environ.get("DUALPRUNE_DATA")
    if not root:
        pytest.skip("DUALPRUNE_DATA is not set: it names a folder that holds text/sst2")
    text = Path(root, "text")
    where = dict.fromkeys(("train", "val", "test"), str(text / "sst2" / "dev.tsv"))
    vocabulary = str(text / "bert_vocab" / "vocab.txt")
    wanted = Wanted(label="1", columns=("2",), tokenizer=vocabulary)
    manifest = convert_tables(str(tmp_path / "out"), "sst2", where, wanted, None)
    assert manifest["splits"]["val"]["samples"] == 872
    found = batch(tmp_path, "val")
    # bert-base-uncased's own numbers of "one long string of cliches ."
    assert found["tokens"][0][found["tokens_mask"][0]].tolist() == [
        101,
        2028,
        2146,
        5164,
        1997,
        18856,
        17322,
        2015,
        1012,
        102,
    ]
    assert found["label"].sum() == 444
