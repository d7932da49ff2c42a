"""One hypothesis profile and one thread for every test, and the CPU's backends."""

import warnings

import pytest
import torch
from hypothesis import HealthCheck, settings

import icasa
from icasa.kernels import native

collect_ignore = ["mutation.py", "promises.py"]  # commands, which need more than the library

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci")
torch.set_num_threads(1)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    native.is_loaded()  # warns once where there is no C, which would fail the first test


@pytest.fixture
def c_library():
    """Skip where the C library was not built."""
    if native.LIBRARY is None:
        pytest.skip("the C kernels were not compiled at installation")


@pytest.fixture
def reads_last(c_library, monkeypatch):
    """Have the C read channels_last as it lies, also with fewer channels than pays."""
    monkeypatch.setattr(native, "reads_last", lambda *_: True)


@pytest.fixture(params=["torch", "c"])
def backend(request, monkeypatch):
    """Run the operators by PyTorch, and by the C library where it was built."""
    if request.param == "torch":
        monkeypatch.setattr(native, "LIBRARY", None)
    elif native.LIBRARY is None:
        pytest.skip("the C kernels were not compiled at installation")
    assert icasa.backend() == request.param
    return request.param
