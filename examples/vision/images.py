"""Images in class folders, unpacked or in a zip, as arrays: reading, checking, splitting, caching.

``root`` is a folder or a zip with ``train`` and ``test`` in it (folders or zips), or with the class
folders themselves, of which a fifth of every class is then set aside as the test part.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Place = Path | zipfile.Path  # they share iterdir, is_dir, name and read_bytes
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
TEST_SHARE = 0.2  # of one folder without a test part
SPLIT_SEED = 0  # the same parts for every seed of the training


class ImageFolderError(ValueError):
    """A folder of images that cannot be used, in one line."""


@dataclass(frozen=True)
class Images:
    """One part of the data: x (N, H, W, 3) in uint8, y (N,) class indices, and the files' names."""

    x: np.ndarray
    y: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.y)

    def take(self, index: np.ndarray) -> "Images":
        """Return some of the images."""
        return Images(self.x[index], self.y[index], tuple(self.names[i] for i in index))


@dataclass(frozen=True)
class Dataset:
    """The three parts, the classes in order, what was odd, and a digest of files and labels."""

    train: Images
    validation: Images
    test: Images
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Listing:
    """The image files of one part: their content, their names and their classes."""

    content: tuple[bytes, ...]
    names: tuple[str, ...]
    classes: tuple[str, ...]
    ignored: tuple[str, ...]


def load(root: Path, cache: Path, *, size: int | None, validation_share: float) -> Dataset:
    """Read, check and split the images of ``root``.

    Args:
        root: folder or zip.
        cache: folder for the decoded arrays.
        size: pixels of the sides: the shorter side is resized to it and the longer one cropped
            about the centre. None: the images must have one size, and keep it.
        validation_share: share of every class of the training part that is held out.

    Raises:
        ImageFolderError: what cannot be used, with the path and a hint.
    """
    parts = {name: list_images(place) for name, place in find_parts(root).items()}
    labels = tuple(sorted(set(parts["train"].classes)))
    if len(labels) < 2:
        raise ImageFolderError(f"{root}: expected at least 2 class folders, got {list(labels)}")
    if unknown := sorted(set(parts.get("test", parts["train"]).classes) - set(labels)):
        raise ImageFolderError(f"{root}: test has classes that train lacks: {unknown[:3]}")
    shape = size or common_size(parts)
    images = {name: decode(part, labels, shape, cache) for name, part in parts.items()}
    if "test" not in images:
        images["train"], images["test"] = split(images["train"], TEST_SHARE, SPLIT_SEED)
    train, validation = split(images["train"], validation_share, SPLIT_SEED + 1)
    digests = [digest_of(part, labels) for part in parts.values()]
    return Dataset(
        train, validation, images["test"], labels, notes_on(parts),
        hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16],
    )  # fmt: skip


def find_parts(root: Path) -> dict[str, Place]:
    """Return the places of the class folders: train and test, or train alone."""
    place = open_place(root)
    children = {child.name.removesuffix(".zip"): child for child in visible(place)}
    if {"train", "test"} <= set(children):
        return {part: open_place(children[part]) for part in ("train", "test")}
    return {"train": place}


def open_place(path: Place) -> Place:
    """Open a folder or a zip, and go down through a folder that is alone in it."""
    if isinstance(path, Path) and path.suffix == ".zip":
        if not zipfile.is_zipfile(path):
            raise ImageFolderError(f"{path}: expected a zip, got none; is the download complete?")
        path = zipfile.Path(path)
    elif not path.is_dir():
        raise ImageFolderError(f"{path}: expected a folder or a zip, got none; check the path")
    inside = [child for child in visible(path) if child.is_dir()]
    while len(inside) == 1 and any(child.is_dir() for child in visible(inside[0])):
        path = inside[0]
        inside = [child for child in visible(path) if child.is_dir()]
    return path


def visible(place: Place) -> Iterator[Place]:
    """List a folder without what file managers leave in it."""
    for child in place.iterdir():
        if not child.name.startswith((".", "__MACOSX")):
            yield child


def list_images(place: Place) -> Listing:
    """Read the files of every class folder, in the order of their names."""
    found: list[tuple[str, str, bytes]] = []
    ignored = []
    for folder in visible(place):
        if not folder.is_dir():
            ignored.append(folder.name)
            continue
        for file in visible(folder):
            name = f"{folder.name}/{file.name}"
            if file.is_dir() or not file.name.lower().endswith(SUFFIXES):
                ignored.append(name)
            else:
                found.append((folder.name, name, read_bytes(file)))
    if not found:
        raise ImageFolderError(
            f"{place}: expected class folders with images ({', '.join(SUFFIXES)}), got none; "
            f"give the folder that holds one folder per class, or train and test"
        )
    classes, names, content = zip(*sorted(found), strict=True)
    return Listing(content, names, classes, tuple(sorted(ignored)))


def read_bytes(file: Place) -> bytes:
    """Read one file."""
    try:
        return file.read_bytes()
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:  # RuntimeError: it is encrypted
        raise ImageFolderError(f"{file}: expected a readable file, got {error}") from None


def open_image(content: bytes, name: str) -> Image.Image:
    """Open one image in RGB and upright."""
    try:
        return ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageFolderError(
            f"{name}: expected an image, got {type(error).__name__} ({error}); remove the file"
        ) from None


def common_size(parts: dict[str, Listing]) -> tuple[int, int]:
    """Return the one size (width, height) that all images have, from their headers."""
    sizes: dict[tuple[int, int], str] = {}
    for part in parts.values():
        for content, name in zip(part.content, part.names, strict=True):
            try:
                size = Image.open(io.BytesIO(content)).size
            except (UnidentifiedImageError, OSError):
                size = open_image(content, name).size  # raises with its reason
            sizes.setdefault(size, name)
    if len(sizes) > 1:
        some = ", ".join(f"{w}x{h} ({name})" for (w, h), name in list(sizes.items())[:2])
        raise ImageFolderError(f"expected images of one size, got {some}; give --size")
    return next(iter(sizes))


def decode(
    part: Listing, labels: tuple[str, ...], size: int | tuple[int, int], cache: Path
) -> Images:
    """Decode a part, or read its array from the cache, whose key is the files' content."""
    y = np.array([labels.index(name) for name in part.classes])
    key = hashlib.sha256(f"{digest_of(part, labels)} {size}".encode()).hexdigest()[:16]
    path = cache / f"images-{key}.npy"
    if path.exists():
        return Images(read_array(path, len(y)), y, part.names)

    def pixels(content: bytes, name: str) -> np.ndarray:
        image = open_image(content, name)
        return np.asarray(ImageOps.fit(image, (size, size)) if isinstance(size, int) else image)

    with ThreadPoolExecutor() as pool:
        x = np.stack(list(pool.map(pixels, part.content, part.names)))
    write_aside(path, lambda file: np.save(file, x))
    return Images(x, y, part.names)


def read_array(path: Path, count: int) -> np.ndarray:
    """Read a cached array, and refuse one that is damaged."""
    try:
        x = np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        x = None
    if x is None or len(x) != count:
        raise ImageFolderError(f"{path}: the cached array is damaged; remove the file")
    return x


def write_aside(path: Path, write: Callable[[io.BufferedWriter], object]) -> None:
    """Write to a file of this process's own and rename it: a stop leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with partial.open("wb") as file:
        write(file)
    partial.replace(path)


def split(images: Images, share: float, seed: int) -> tuple[Images, Images]:
    """Hold out a share of every class, drawn by the seed; at least one of each remains."""
    rng, held = np.random.default_rng(seed), []
    for label in np.unique(images.y):
        index = rng.permutation(np.flatnonzero(images.y == label))
        count = round(share * len(index))
        if count == len(index) or (share and not count):
            raise ImageFolderError(
                f"expected enough images of every class to hold out {share:.0%}, got {len(index)} "
                f"in {images.names[index[0]].split('/')[0]!r}; add images or hold out another share"
            )
        held.append(index[:count])
    out = np.sort(np.concatenate(held))
    return images.take(np.setdiff1d(np.arange(len(images)), out)), images.take(out)


def digest_of(part: Listing, labels: tuple[str, ...]) -> str:
    """Return a digest of files, names and classes, not of where they lie."""
    digest = hashlib.sha256("\0".join((*labels, *part.names)).encode())
    for content in part.content:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def notes_on(parts: dict[str, Listing]) -> tuple[str, ...]:
    """Say what is odd: files that are no images, and images that stand in both parts."""
    notes = []
    for name, part in parts.items():
        if part.ignored:
            some = ", ".join(part.ignored[:3])
            notes.append(f"{len(part.ignored)} files of {name} are no images of a class: {some}")
        if twice := len(part.content) - len(set(part.content)):
            notes.append(f"{twice} images of {name} are copies of others in it, byte for byte")
    if "test" in parts:
        both = len(set(parts["train"].content) & set(parts["test"].content))
        if both:
            notes.append(f"{both} images of test are in train too, byte for byte")
    return tuple(notes)
