"""Images in zip archives: found where unpacking would put them, and never unpacked onto the disk."""

import json
import os
import stat
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from hf_multimodal.data import archives
from hf_multimodal.data.archives import archive_members, archives_in, file_size, locate, open_file, read_file
from hf_multimodal.data.checks import check_splits
from hf_multimodal.data.images import BadImageError, open_image
from hf_multimodal.data.loading import load_data
from hf_multimodal.data.pairs import name_images
from hf_multimodal.data.splits import duplicate_groups


def png(folder: Path, colour: int) -> bytes:
    Image.new("L", (4, 4), colour).save(folder / "drawn.png")
    content = (folder / "drawn.png").read_bytes()
    (folder / "drawn.png").unlink()
    return content


def pack(archive: Path, members: dict[str, bytes | str]) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)


def write_metadata(path: Path, names: list[str]) -> None:
    path.write_text(metadata(names), encoding="utf-8")


def metadata(names: list[str]) -> str:
    return "\n".join(json.dumps({"file_name": name, "text": name, "label": name[-5]}) for name in names)


def colours(data) -> list[int | None]:
    rows = [row for split in data.splits.values() for row in split]
    return [None if row["image"] is None else open_image(row["image"]).getpixel((0, 0)) for row in rows]


@pytest.mark.parametrize(
    ("archive", "member", "named"),
    [
        ("images.zip", "{}.png", "{}.png"),
        ("images.zip", "images/{}.png", "images/{}.png"),
        ("train.ZIP", "{}.png", "train/{}.png"),
        ("images.zip", "sea/{}.png", "images.zip/sea/{}.png"),
    ],
    ids=["beside", "folder inside", "named by the archive", "through the archive"],
)
def test_load_data_reads_a_zip_beside_the_metadata(tmp_path, archive, member, named):
    pack(tmp_path / archive, {member.format(i): png(tmp_path, 50 * i) for i in range(3)})
    write_metadata(tmp_path / "metadata.jsonl", [named.format(i) for i in range(3)])
    before = sorted(tmp_path.rglob("*"))
    data, samples = check_splits(load_data(tmp_path), policy="error")
    assert (colours(data), samples) == ([0, 50, 100], [])
    assert data.splits["train"][1]["image"]["path"] == str(tmp_path / archive / member.format(1))
    assert sorted(tmp_path.rglob("*")) == before


def test_load_data_reads_metadata_within_the_archives(tmp_path):
    for place, split in enumerate(("train", "test")):
        names = {f"{i}.png": png(tmp_path, 50 * i + place) for i in range(2)}
        pack(tmp_path / f"{split}.zip", {**names, "metadata.jsonl": metadata(list(names))})
    data, _ = check_splits(load_data(tmp_path), policy="error")
    assert list(data.splits) == ["train", "test"] and colours(data) == [0, 50, 1, 51]
    assert data.sources["test"] == str(tmp_path / "test.zip" / "metadata.jsonl")


def test_a_file_in_the_folder_goes_before_the_archive_and_two_archives_are_ambiguous(tmp_path):
    pack(tmp_path / "a.zip", {"0.png": png(tmp_path, 10), "1.png": png(tmp_path, 11)})
    pack(tmp_path / "b.zip", {"1.png": png(tmp_path, 21), "2.png": png(tmp_path, 22)})
    (tmp_path / "0.png").write_bytes(png(tmp_path, 99))
    write_metadata(tmp_path / "metadata.jsonl", ["0.png", "1.png", "2.png", "3.png"])
    data, samples = check_splits(load_data(tmp_path), policy="missing")
    assert colours(data) == [99, None, 22, None]
    assert [sample.row for sample in samples] == [1, 3]
    assert "metadata.jsonl, row 1 (id '1'), column 'file_name', '1.png': it is in several zip archives: [" in str(
        samples[0]
    )
    assert samples[1].reason.endswith("there is no such file")


def test_members_that_lead_out_of_the_archive_are_never_found(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(png(tmp_path, 7))
    with zipfile.ZipFile(tmp_path / "data" / "images.zip", "w") as packed:
        packed.writestr("../secret.png", "out")
        packed.writestr("/etc/secret.png", "out")
        packed.writestr("a/../../secret.png", "out")
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "../secret.png")
    assert list(archive_members(tmp_path / "data" / "images.zip")) == ["link.png"]
    names = ["../secret.png", "images.zip/../../secret.png", "secret.png", "/etc/secret.png", "link.png"]
    write_metadata(tmp_path / "data" / "metadata.jsonl", names)
    data, samples = check_splits(load_data(tmp_path / "data"), policy="missing")
    assert colours(data) == [None] * 5
    outside, missing = "the path leaves the data folder", "there is no such file"
    for sample, reason in zip(samples, [outside, outside, missing, outside, "is not an image"], strict=True):
        assert reason in sample.reason


def test_bombs_broken_and_locked_archives_are_bad_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 10_000)
    pack(tmp_path / "bomb.zip", {"bomb.png": bytes(10_001), "good.png": png(tmp_path, 5), "liar.png": bytes(50_000)})
    content = bytearray((tmp_path / "bomb.zip").read_bytes())
    directory = content.index(b"PK\x01\x02")
    entry = content.index(b"liar.png", directory) - 46
    content[entry + 24 : entry + 28] = (500).to_bytes(4, "little")  # the size that it states
    (tmp_path / "bomb.zip").write_bytes(content)
    pack(tmp_path / "locked.zip", {"locked.png": b"x"})
    locked = bytearray((tmp_path / "locked.zip").read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(mark) + place] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    write_metadata(tmp_path / "metadata.jsonl", ["bomb.png", "good.png", "liar.png", "locked.png"])
    data, samples = check_splits(load_data(tmp_path), policy="missing")
    assert colours(data) == [None, 5, None, None]
    for sample, reason in zip(
        samples, ["10,001 bytes .* more than 10,000", "broken in the zip", "password"], strict=True
    ):
        with pytest.raises(BadImageError, match=reason):
            open_image(sample.value)
    (tmp_path / "locked.zip").write_bytes(b"no archive")
    data, samples = check_splits(load_data(tmp_path), policy="missing")
    assert "locked.zip is not a readable zip archive: File is not a zip file" in str(samples[-1])


def test_names_sizes_and_duplicates_reach_into_archives(tmp_path):
    same = png(tmp_path, 3)
    pack(tmp_path / "images.zip", {"a.png": same, "sea/b.png": same, "c.png": png(tmp_path, 200)})
    (tmp_path / "d.png").write_bytes(same)
    write_metadata(tmp_path / "metadata.jsonl", ["a.png", "sea/b.png", "c.png", "d.png"])
    rows = load_data(tmp_path).splits["train"]
    assert duplicate_groups(rows).tolist() == [0, 0, 1, 0]
    assert name_images(rows)["image_id"][0] == str(tmp_path / "images.zip" / "a.png")
    assert file_size(tmp_path / "images.zip" / "sea" / "b.png") == len(same) == file_size(tmp_path / "d.png")
    assert file_size(tmp_path / "images.zip" / "none") == file_size(tmp_path / "none") == 0
    assert read_file(tmp_path / "images.zip" / "a.png") == same
    assert locate(archives_in(tmp_path), "e.png") == [] and archives_in(tmp_path / "none") == []
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "images.zip" / "sea")


def test_an_archive_that_changes_is_read_anew(tmp_path):
    path = tmp_path / "images.zip"
    pack(path, {"a": "one"})
    assert read_file(path / "a") == b"one"
    pack(path, {"a": "other"})
    os.utime(path, (1, 1))
    assert read_file(path / "a") == b"other"
