"""Reading images: every layout gives the same arrays, and what is wrong is named in one line."""

import io
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from examples.vision.images import ImageFolderError, load
from tests.examples.vision.tiny_images import COLOURS, png, write_classes, write_zip


def read(root, tmp_path, size=None, validation_share=0.2):
    return load(root, tmp_path / "cache", size=size, validation_share=validation_share)


def copy(pictures, tmp_path):
    return shutil.copytree(pictures, tmp_path / "copy")


def test_folders_and_zips_give_the_same_data(pictures, tmp_path):
    expected = read(pictures, tmp_path)
    zips = tmp_path / "zips"
    zips.mkdir()
    for part in ("train", "test"):
        write_zip(pictures / part, zips / f"{part}.zip", inside=f"{part}/")
    for root in (zips, write_zip(pictures, tmp_path / "all.zip")):
        got = read(root, tmp_path)
        assert got.digest == expected.digest
        for part in ("train", "validation", "test"):
            ours, theirs = getattr(got, part), getattr(expected, part)
            np.testing.assert_array_equal(ours.x, theirs.x)
            np.testing.assert_array_equal(ours.y, theirs.y)
            assert ours.names == theirs.names


def test_pixels_are_those_of_the_file_and_the_cache_returns_them(pictures, tmp_path):
    first, again = read(pictures, tmp_path), read(pictures, tmp_path)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    for data in (first, again):
        for image, label, name in zip(data.test.x, data.test.y, data.test.names, strict=True):
            expected = np.asarray(Image.open(pictures / "test" / name))
            np.testing.assert_array_equal(image, expected)
            assert data.labels[label] == name.split("/")[0]


def test_the_cache_is_keyed_by_content(pictures, tmp_path):
    root = copy(pictures, tmp_path)
    before = read(root, tmp_path)
    (root / "test" / "red" / "000.png").write_bytes(png(77, (0, 0, 0)))
    after = read(root, tmp_path)
    assert before.digest != after.digest
    assert not np.array_equal(before.test.x, after.test.x)


def test_a_damaged_cache_is_named(pictures, tmp_path):
    read(pictures, tmp_path)
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageFolderError, match="cached array is damaged; remove the file"):
        read(pictures, tmp_path)


def test_one_folder_is_split_by_class_and_no_image_is_on_two_sides(tmp_path):
    data = read(write_classes(tmp_path / "one", 20), tmp_path, validation_share=0.25)
    assert [np.bincount(part.y).tolist() for part in (data.train, data.validation, data.test)] == [
        [12] * 3, [4] * 3, [4] * 3,
    ]  # fmt: skip
    names = [*data.train.names, *data.validation.names, *data.test.names]
    assert len(set(names)) == len(names) == 60


def test_images_of_several_sizes_need_a_size(pictures, tmp_path):
    root = copy(pictures, tmp_path)
    (root / "train" / "red" / "000.png").write_bytes(png(0, COLOURS["red"], size=(12, 8)))
    with pytest.raises(ImageFolderError, match=r"one size, got 8x8 .* 12x8 .*give --size"):
        read(root, tmp_path)
    assert read(root, tmp_path, size=6).train.x.shape[1:] == (6, 6, 3)


def test_grey_and_transparent_images_become_rgb(pictures, tmp_path):
    root = copy(pictures, tmp_path)
    for number, mode in enumerate(("L", "RGBA", "P")):
        buffer = io.BytesIO()
        Image.new(mode, (8, 8), 128 if mode != "RGBA" else (128,) * 4).save(buffer, "PNG")
        (root / "test" / "red" / f"{number:03}.png").write_bytes(buffer.getvalue())
    assert read(root, tmp_path).test.x.shape == (15, 8, 8, 3)


def test_what_is_odd_is_noted(pictures, tmp_path):
    root = copy(pictures, tmp_path)
    (root / "train" / "red" / "notes.txt").write_text("no image")
    (root / "train" / ".DS_Store").write_text("hidden")
    shutil.copy(root / "test" / "red" / "000.png", root / "train" / "red" / "twin.png")
    shutil.copy(root / "train" / "blue" / "000.png", root / "train" / "blue" / "twin.png")
    assert read(root, tmp_path).notes == (
        "1 files of train are no images of a class: red/notes.txt",
        "1 images of train are copies of others in it, byte for byte",
        "1 images of test are in train too, byte for byte",
    )


def broken_image(root):
    (root / "test" / "red" / "000.png").write_bytes(b"no image")


def cut_image(root):
    path = root / "test" / "red" / "000.png"
    path.write_bytes(path.read_bytes()[:100])


def no_images(root):
    for path in root.rglob("*.png"):
        path.unlink()


def one_class(root):
    for name in ("blue", "green"):
        shutil.rmtree(root / "train" / name)


def other_class(root):
    (root / "test" / "red").rename(root / "test" / "yellow")


def few_images(root):
    for path in sorted((root / "train" / "red").iterdir())[1:]:
        path.unlink()


BAD = {
    broken_image: r"red/000.png: expected an image, got UnidentifiedImageError .*; remove the file",
    cut_image: r"red/000.png: expected an image, got .*; remove the file",
    no_images: "expected class folders with images .* got none; give the folder that holds",
    one_class: r"expected at least 2 class folders, got \['red'\]",
    other_class: r"test has classes that train lacks: \['yellow'\]",
    few_images: "expected enough images of every class to hold out 20%, got 1 in 'red'",
}


@pytest.mark.parametrize("damage", BAD, ids=lambda damage: damage.__name__)
def test_bad_folders_are_named_in_one_line(pictures, tmp_path, damage):
    root = copy(pictures, tmp_path)
    damage(root)
    with pytest.raises(ImageFolderError, match=BAD[damage]) as caught:
        read(root, tmp_path)
    assert "\n" not in str(caught.value)


def test_bad_paths_and_zips_are_named(pictures, tmp_path):
    with pytest.raises(ImageFolderError, match="expected a folder or a zip, got none"):
        read(tmp_path / "nowhere", tmp_path)
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(ImageFolderError, match="expected a zip, got none; is the download"):
        read(tmp_path / "text.zip", tmp_path)
    path = write_zip(pictures, tmp_path / "all.zip")
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("test/red/000.png").header_offset + 100
    content = bytearray(path.read_bytes())
    content[start] ^= 255
    path.write_bytes(content)
    with pytest.raises(ImageFolderError, match="expected a readable file, got Bad CRC-32"):
        read(path, tmp_path)
