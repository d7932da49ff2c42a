"""Write every drawing as OUT/<name>.svg."""

import sys
from pathlib import Path

from drawings import DRAWINGS

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
for name, draw in DRAWINGS.items():
    (out / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")
