"""Shards made of trees and of other shards: what is in them, and that a conversion that is cut off goes on."""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import simplejpeg
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from dualprune.stages.data.format import SPLITS, DataError, read_manifest
from dualprune.stages.data.make.convert import Options, convert
from dualprune.stages.data.make.index import index
from dualprune.stages.data.make.inputs import origins
from dualprune.stages.data.order import epoch_order
from dualprune.stages.files.folder import Folder
from tests.processes import PATH
from tests.s3server import BUCKET, S3Server
from tests.stages.conftest import jpeg, jpegs

CLASSES = ("ant", "bee.eater", "cat")
SMALL = 36_000
"""Bytes of a shard, so that there are several."""


def tree(folder: Path, counts: dict[str, int]) -> Path:
    """Pictures of many sizes in folders of classes, so many in each split."""
    for seed, (split, count) in enumerate(counts.items()):
        for number, (data, label) in enumerate(jpegs(count, seed)):
            place = folder / split / CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"picture.{number}.JPEG").write_bytes(data)
    return folder


def inside(folder: Path, manifest: dict[str, Any], split: str) -> list[tuple[str, bytes, int]]:
    """Key, picture and label of each sample of a split, in the shards' order, by tarfile alone."""
    found = []
    for shard in manifest["splits"][split]["shards"]:
        with tarfile.open(folder / shard["file"]) as tar:
            files = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
        pictures = [name for name in files if not name.endswith(".cls")]
        found += [(key, files[n], int(files[f"{key}.cls"])) for n in pictures for key in [n.partition(".")[0]]]
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty pictures to train on, and twelve called val."""
    return tree(tmp_path_factory.mktemp("source"), {"train": 60, "val": 12})


@pytest.fixture(scope="module")
def where(source: Path) -> dict[str, str]:
    """The source's splits as `convert` is told of them: what is called val is for test."""
    return {"train": f"{source}/train", "test": f"{source}/val"}


@pytest.fixture(scope="module")
def made(where: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Its shards, fifteen held out, and their manifest."""
    folder = tmp_path_factory.mktemp("made")
    return folder, convert(str(folder), "small", where, Options(shard_bytes=SMALL, held=15), processes=2)


def test_shards_hold_what_the_tree_holds(
    made: tuple[Path, dict[str, Any]], source: Path, where: dict[str, str]
) -> None:
    """Each picture once, byte for byte, labelled as torchvision labels it, under a key that tells which it is."""
    folder, manifest = made
    assert read_manifest(str(folder)) == manifest
    assert manifest["classes"] == list(CLASSES)
    assert {split: manifest["splits"][split]["samples"] for split in SPLITS} == {"train": 45, "val": 15, "test": 12}
    for splits, name in ((("train", "val"), "train"), (("test",), "val")):
        theirs = ImageFolder(str(source / name)).samples
        ours = [sample for split in splits for sample in inside(folder, manifest, split)]
        assert sorted((data, label) for _, data, label in ours) == sorted(
            (Path(path).read_bytes(), label) for path, label in theirs
        )
        for key, data, _ in ours:
            path = Path(theirs[int(key[:8])][0])
            assert key[8:] == "-" + path.stem.replace(".", "_")
            assert data == path.read_bytes()
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        ["manifest.json"]
        + [f"{split}-index.npy" for split in SPLITS]
        + [shard["file"] for split in SPLITS for shard in manifest["splits"][split]["shards"]]
    )


def test_samples_are_shuffled_and_shards_even(made: tuple[Path, dict[str, Any]]) -> None:
    """The order is that of the seed; what is held out is the beginning of it."""
    folder, manifest = made
    numbers = {split: [int(key[:8]) for key, _, _ in inside(folder, manifest, split)] for split in SPLITS}
    assert numbers["val"] + numbers["train"] == epoch_order(60, 0, 0).tolist()
    assert numbers["test"] == epoch_order(12, 0, 0).tolist()
    sizes = [shard["samples"] for shard in manifest["splits"]["train"]["shards"]]
    assert len(sizes) > 3
    assert max(sizes) - min(sizes) <= 1
    mean = np.mean([shard["bytes"] for shard in manifest["splits"]["train"]["shards"]])
    assert 0.6 * SMALL < mean < 1.3 * SMALL  # a tar file is of whole blocks of 10 KB


def test_the_same_options_give_the_same_bytes(
    made: tuple[Path, dict[str, Any]], where: dict[str, str], tmp_path: Path
) -> None:
    """In however many processes, and wherever. A finished folder is left as it is."""
    folder, manifest = made
    again = convert(str(tmp_path / "a"), "small", where, Options(shard_bytes=SMALL, held=15), processes=1)
    assert again == manifest
    for file in folder.iterdir():
        assert (tmp_path / "a" / file.name).read_bytes() == file.read_bytes(), file.name
    times = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert convert(str(folder), "small", where, Options(shard_bytes=SMALL, held=15)) == manifest
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == times


def test_a_folder_that_holds_something_else_is_refused(
    made: tuple[Path, dict[str, Any]], where: dict[str, str], tmp_path: Path
) -> None:
    """Nothing in it is touched."""
    folder, _ = made
    with pytest.raises(DataError, match="other options; give another folder"):
        convert(str(folder), "small", where, Options(shard_bytes=SMALL, held=14))
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds mine\.txt and more; give an empty folder"):
        convert(str(tmp_path), "small", where, Options(held=14))
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.usefixtures("in_one_process")
def test_other_shards_are_made_anew(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Another size and order, the same pictures and classes."""
    folder, manifest = made
    patterns = {split: f"{folder}/{split}-*.tar" for split in SPLITS}
    again = convert(str(tmp_path), "large", patterns, Options(seed=3), processes=1)
    assert again["classes"] == manifest["classes"]
    for split in SPLITS:
        assert len(again["splits"][split]["shards"]) == 1
        before = [(data, label) for _, data, label in inside(folder, manifest, split)]
        after = [(data, label) for _, data, label in inside(tmp_path, again, split)]
        assert sorted(after) == sorted(before)
        assert after != before


def test_shards_without_a_manifest_of_ours_have_labels_alone(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Whatever lies there under its name; and what is of one shape is not made anew."""
    folder, _ = made
    shutil.copytree(folder, tmp_path / "source")
    patterns = {split: f"{tmp_path}/source/{split}-*.tar" for split in SPLITS}
    for number, theirs in enumerate(("no JSON", "[]", '{"splits": [1]}', '{"splits": {"other": 1}}', None)):
        (tmp_path / "source" / "manifest.json").write_text(theirs or "")
        if theirs is None:
            (tmp_path / "source" / "manifest.json").unlink()
        found, classes, _ = origins(patterns, 0.001)
        assert (len(found), classes) == (3, []), number
    (tmp_path / "source" / "manifest.json").write_text('{"splits": {"train": {"shape": [1, 28, 28]}}}')
    with pytest.raises(DataError, match="source holds pictures of one shape, and is ready as it is"):
        origins(patterns, 0.001)


def test_braces_name_shards_as_they_do_for_webdataset(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Each must be there; other patterns may be among them, and a shard that two of them match counts once."""
    folder, manifest = made
    test = {"test": f"{folder}/test-*.tar"}
    files = {split: [shard["file"] for shard in manifest["splits"][split]["shards"]] for split in SPLITS}
    assert len(files["train"]) > 3

    def indexed(pattern: str) -> list[str]:
        found = index(str(tmp_path), "braces", {"train": f"{folder}/{pattern}"} | test)
        return [shard["file"] for shard in found["splits"]["train"]["shards"]]

    assert indexed("train-{000000..000002}.tar") == files["train"][:3]
    assert indexed("train-{000002,000000}.tar") == [files["train"][0], files["train"][2]]
    assert indexed("{train,val}-*.tar") == files["train"] + files["val"]
    assert indexed("train-{*,000001}.tar") == files["train"]
    with pytest.raises(
        DataError, match=r"train-\{000000\.\.000400\}\.tar: there is no .*/train-0*\d+\.tar and \d+ more$"
    ):
        indexed("train-{000000..000400}.tar")
    with pytest.raises(DataError, match=r"\{none,nothing\}\.tar matches no file"):
        indexed("{none,nothing}.tar")
    with pytest.raises(DataError, match=r"train-\{000000\.tar has a brace without its other one"):
        indexed("train-{000000.tar")


@pytest.mark.usefixtures("in_one_process")
def test_long_short_sides_are_resized_as_torchvision_does(where: dict[str, str], tmp_path: Path) -> None:
    """The very pixels, encoded as ours are; smaller pictures stay as they are."""
    manifest = convert(str(tmp_path), "s", where, Options(held=5, resize=60, quality=None), processes=1)
    theirs = ImageFolder(where["train"]).samples
    resize = v2.Resize(60)  # of PIL's pictures, so bilinear as PIL has it
    differing = 0
    for key, data, _ in inside(tmp_path, manifest, "train"):
        original = Path(theirs[int(key[:8])][0]).read_bytes()
        before = Image.open(io.BytesIO(original)).convert("RGB")
        if min(before.size) <= 60:
            assert data == original
            continue
        encoded = simplejpeg.encode_jpeg(np.asarray(resize(before)), 90, colorsubsampling="420")
        wanted, found = (np.asarray(Image.open(io.BytesIO(picture))) for picture in (encoded, data))
        assert min(found.shape[:2]) == 60
        assert np.array_equal(found, wanted)
        differing += 1
    assert differing > 10


@pytest.mark.usefixtures("in_one_process")
def test_quality_encodes_all_anew(where: dict[str, str], tmp_path: Path) -> None:
    """At their own size, PNGs among them."""
    place = tmp_path / "tree" / "train" / "ant"
    place.mkdir(parents=True)
    pictures = {}
    for n in range(4):
        data = io.BytesIO()
        Image.open(io.BytesIO(jpeg(40 + n, 50, n))).save(data, format="PNG" if n % 2 else "JPEG", quality=95)
        pictures[f"{n}.{'png' if n % 2 else 'jpg'}"] = data.getvalue()
    for name, content in pictures.items():
        (place / name).write_bytes(content)
    train = {"train": str(place.parent), "test": str(place.parent)}
    plain = convert(str(tmp_path / "plain"), "p", train, Options(held=1), processes=1)
    kept = {data for split in ("train", "val") for _, data, _ in inside(tmp_path / "plain", plain, split)}
    assert kept == set(pictures.values())
    coarse = convert(str(tmp_path / "coarse"), "c", train, Options(held=1, quality=20), processes=1)
    sizes = set()
    for _, data, _ in inside(tmp_path / "coarse", coarse, "test"):
        picture = Image.open(io.BytesIO(data))
        assert picture.format == "JPEG"
        sizes.add(picture.size)
    assert sizes == {(50, 40 + n) for n in range(4)}
    coarser, finer = (
        sum(len(data) for _, data, _ in inside(tmp_path / name, manifest, "test"))
        for name, manifest in (("coarse", coarse), ("plain", plain))
    )
    assert coarser < finer / 2


def test_an_interrupt_ends_it_at_once(where: dict[str, str], tmp_path: Path) -> None:
    """With all of its processes; what was whole is kept."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    notes = []

    def interrupt(done: int, samples: int) -> None:
        notes.extend((tmp_path / "made" / "parts").glob("*.tar.json"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(str(tmp_path / "made"), "small", where, Options(shard_bytes=SMALL, held=15), 2, interrupt)
    assert notes
    assert all(note.exists() for note in notes)
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert [child for child in left if "resource_tracker" not in " ".join(child.cmdline())] == []


def test_a_killed_process_is_told(where: dict[str, str], tmp_path: Path) -> None:
    """As when there is no memory left."""
    others = multiprocessing.active_children()  # a loader's of a test before: torch would raise that it was killed

    def kill(done: int, samples: int) -> None:
        for child in multiprocessing.active_children():
            if child not in others:
                child.kill()

    with pytest.raises(DataError, match="a process that wrote a shard was killed"):
        convert(str(tmp_path / "made"), "small", where, Options(shard_bytes=8_000, held=15), 1, kill)
    convert(str(tmp_path / "made"), "small", where, Options(shard_bytes=8_000, held=15), 1)


KILLED = """
import sys
from dualprune.stages.data.make.convert import Options, convert

if __name__ == "__main__":
    def progress(done, samples):
        print(done, flush=True)

    train, test, folder = sys.argv[1:]
    convert(folder, "small", {"train": train, "test": test}, Options(shard_bytes=36_000, held=15), 1, progress)
"""


def test_a_conversion_that_was_killed_goes_on(
    made: tuple[Path, dict[str, Any]], where: dict[str, str], tmp_path: Path
) -> None:
    """It writes no shard again that was whole, and ends with the bytes of an undisturbed one."""
    (tmp_path / "script.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "script.py"), where["train"], where["test"], str(tmp_path / "made")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": PATH}, start_new_session=True
    ) as run:
        assert run.stdout is not None
        assert int(run.stdout.readline()) > 0
        os.killpg(run.pid, signal.SIGKILL)
    written = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "made").glob("*.tar")}
    noted = {file.name.removesuffix(".json") for file in (tmp_path / "made" / "parts").glob("*.tar.json")}
    assert 0 < len(noted) <= len(written)
    assert not (tmp_path / "made" / "manifest.json").exists()
    time.sleep(0.01)
    folder, manifest = made
    assert convert(str(tmp_path / "made"), "small", where, Options(shard_bytes=SMALL, held=15), 1) == manifest
    assert sorted(file.name for file in (tmp_path / "made").iterdir()) == sorted(file.name for file in folder.iterdir())
    for file in folder.iterdir():
        assert (tmp_path / "made" / file.name).read_bytes() == file.read_bytes(), file.name
    assert all((tmp_path / "made" / name).stat().st_mtime_ns == written[name] for name in noted)


def test_processes_end_with_the_one_that_gave_the_work(where: dict[str, str], tmp_path: Path) -> None:
    """Though that was killed, and could tell them nothing."""
    (tmp_path / "script.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "script.py"), where["train"], where["test"], str(tmp_path / "made")]
    env = os.environ | {"PYTHONPATH": PATH}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as run:
        assert run.stdout is not None
        assert int(run.stdout.readline()) > 0
        children = psutil.Process(run.pid).children(recursive=True)
        assert children
        run.kill()
        _, left = psutil.wait_procs(children, timeout=30)
        for child in left:
            child.kill()
    assert left == []


@pytest.mark.usefixtures("in_one_process")
def test_a_tree_that_was_changed_is_another(tmp_path: Path) -> None:
    """Though its files have the names that they had."""
    place = tree(tmp_path, {"train": 3}) / "train"
    where = dict.fromkeys(SPLITS, str(place))
    convert(str(tmp_path / "made"), "n", where, Options())
    file = place / "ant" / "picture.0.JPEG"
    data, time_before = file.read_bytes(), file.stat().st_mtime_ns
    for content, when in ((data + b" ", time_before), (data, time_before + 1)):
        file.write_bytes(content)
        os.utime(file, ns=(when, when))
        with pytest.raises(DataError, match="holds shards of another source"):
            convert(str(tmp_path / "made"), "n", where, Options())
    os.utime(file, ns=(time_before, time_before))
    convert(str(tmp_path / "made"), "n", where, Options())


@pytest.mark.usefixtures("in_one_process")
def test_a_tree_lies_anywhere(made: tuple[Path, dict[str, Any]], source: Path, place: Folder, tmp_path: Path) -> None:
    """On a service too, and under a disk's URL; the shards are the same."""
    for file in source.rglob("*.JPEG"):
        place.write(file.relative_to(source).as_posix(), file.read_bytes())
    place.write("train/readme.txt", b"in no class")
    url = f"file://{place.root}" if place.local else place.url
    where, options = {"train": f"{url}/train", "test": f"{url}/val"}, Options(shard_bytes=SMALL, held=15)
    again = convert(str(tmp_path / "out"), "small", where, options)
    _, manifest = made
    assert (again["splits"], again["classes"]) == (manifest["splits"], manifest["classes"])
    place.remove("train/ant")
    with pytest.raises(DataError, match=r"val has the class ant, which train does not have"):
        convert(str(tmp_path / "out"), "small", where, options)
    with pytest.raises(DataError, match=r"train/cat is no tree of a folder for each class"):
        convert(str(tmp_path / "out"), "small", where | {"train": f"{url}/train/cat"}, options)


@pytest.mark.usefixtures("in_one_process")
def test_links_and_inner_folders_are_read_as_torchvision_does(tmp_path: Path) -> None:
    """In its order, where that is another than by path; a class that train has may be without pictures elsewhere."""
    place = tree(tmp_path / "there", {"train": 9}) / "train"
    for name in ("in", "in.2", "in/deep"):
        (place / "cat" / name).mkdir()
        (place / "cat" / name / "z.png").write_bytes(jpeg(20, 20, len(name)))
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in CLASSES:
        (linked / name).symlink_to(place / name)
    (linked / "cat" / "same").symlink_to(place / "ant")
    (tmp_path / "test" / "ant").mkdir(parents=True)
    (tmp_path / "test" / "cat").mkdir()
    (tmp_path / "test" / "cat" / "1.jpg").write_bytes(jpeg(20, 20, 0))
    where = {"train": str(linked), "val": str(linked), "test": str(tmp_path / "test")}
    made = convert(str(tmp_path / "made"), "l", where, Options())
    ours = {key: (data, label) for key, data, label in inside(tmp_path / "made", made, "train")}
    theirs = [(Path(path).read_bytes(), label) for path, label in ImageFolder(str(linked)).samples]
    assert [ours[key] for key in sorted(ours)] == theirs
    assert [label for *_, label in inside(tmp_path / "made", made, "test")] == [2]


@pytest.mark.usefixtures("in_one_process")
@pytest.mark.parametrize(
    ("file", "left", "why"),
    [
        ("train-000000.tar", None, "is missing since"),
        ("test-000000.tar", b"cut", "is of another size since"),
        ("val-index.npy", None, "is missing since"),
        ("manifest.json", b"", "is no JSON"),
        ("manifest.json", b"[1]", "is nothing that dualprune wrote"),
        ("manifest.json", b"{}", "holds shards of another source"),
    ],
)
def test_a_finished_folder_that_lost_a_file_is_refused(
    file: str, left: bytes | None, why: str, made: tuple[Path, dict[str, Any]], where: dict[str, str], tmp_path: Path
) -> None:
    """With what to do; nothing in it is touched."""
    shutil.copytree(made[0], tmp_path / "made")
    (tmp_path / "made" / file).unlink()
    if left is not None:
        (tmp_path / "made" / file).write_bytes(left)
    with pytest.raises(DataError, match=rf"made.* {why}.*(remove .*/made, and make them again|give another folder)"):
        convert(str(tmp_path / "made"), "small", where, Options(shard_bytes=SMALL, held=15))
    assert (tmp_path / "made" / file).exists() == (left is not None)


@pytest.mark.slow
@pytest.mark.usefixtures("in_one_process")
def test_from_a_bucket_to_a_bucket(
    made: tuple[Path, dict[str, Any]],
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fetched: list[str],
) -> None:
    """Shards there are made anew there, each read once, with the bytes that they have on a disk."""
    monkeypatch.setenv("DUALPRUNE_CACHE", str(tmp_path / "cache"))
    folder, _ = made
    bucket = Folder(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    for file in folder.iterdir():
        bucket.write(f"from/{file.name}", file.read_bytes())
    options = Options(shard_bytes=2 * SMALL, seed=1)
    local = {split: f"{folder}/{split}-*.tar" for split in SPLITS}
    remote = {split: f"{bucket.url}/from/{split}-*.tar" for split in SPLITS}
    expected = convert(str(tmp_path / "made"), "b", local, options, processes=1)
    assert convert(f"{bucket.url}/to", "b", remote, options, processes=1) == expected
    assert sorted(fetched) == sorted(file.name for file in folder.glob("*.tar"))
    assert read_manifest(f"{bucket.url}/to") == expected
    for file in (tmp_path / "made").iterdir():
        assert bucket.read(f"to/{file.name}") == file.read_bytes(), file.name
