"""The images that every test of this folder reads."""

import pytest

from tests.examples.vision.tiny_images import write_classes


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Return a folder with train and test."""
    root = tmp_path_factory.mktemp("pictures")
    write_classes(root / "train", 14)
    write_classes(root / "test", 5, first=500)
    return root
