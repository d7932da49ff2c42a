"""A thousand steps of the C path, in a process of its own: its memory stays as it is."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("c_library")

SCRIPT = """
import resource, torch, icasa

torch.set_num_threads(1)
classes = (icasa.ICASA, icasa.SE, icasa.ECA, icasa.CBAM)
types = (torch.float32, torch.bfloat16)
layers = [cls(16, fused=True, dtype=dtype) for cls in classes for dtype in types]
maps = [torch.randn(n, 16, 20, w, requires_grad=True) for n, w in ((2, 33), (5, 50))] * 4

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB

for step in range(1100):
    if step == 100:
        start = peak()
    for x, layer in zip(maps, layers):
        layer.train(step % 2 == 0)
        x.grad = None
        layer.zero_grad()
        low = x.to(next(layer.parameters()).dtype)
        layer(low).float().square().mean().backward()
        with torch.no_grad():
            layer.eval()(low)
print(peak() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss is in other units")
def test_a_thousand_steps_take_no_more_memory():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 2, "MiB"
