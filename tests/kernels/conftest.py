"""Both bodies of the CPU: a test that takes `body` runs with each."""

import pytest

import icasa.kernels
from icasa.kernels import native


@pytest.fixture(params=["torch", "c"])
def body(request, monkeypatch):
    """Run float32 on the torch calls, or on the C library where it was built."""
    if request.param == "torch":
        monkeypatch.setattr(native, "LIBRARY", None)
    elif native.LIBRARY is None:
        pytest.skip("the C body was not built: no C compiler when icasa was installed")
    assert icasa.kernels.body("cpu") == request.param
    return request.param
