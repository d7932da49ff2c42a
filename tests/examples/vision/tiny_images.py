"""Tiny images that the tests draw: a class is a colour, in folders or in zips."""

import io
import zipfile

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}


def png(seed, colour, size=(8, 8)):
    """Noise about a colour."""
    noise = np.random.default_rng(seed).normal(0, 40, (size[1], size[0], 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_classes(folder, count, first=0):
    """Write class folders with ``count`` images each."""
    for k, (name, colour) in enumerate(COLOURS.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            (folder / name / f"{i:03}.png").write_bytes(png(first + 1000 * k + i, colour))
    return folder


def write_zip(folder, path, inside=""):
    """Pack a folder."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, f"{inside}{file.relative_to(folder).as_posix()}")
    return path
