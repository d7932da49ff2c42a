"""Compare what two builds of the driver print: each sum, relative to the sum of absolute values."""

import sys
from pathlib import Path

LIMIT = 3e-6  # of float32 arithmetic in another order


def main() -> None:
    """Exit with the first line that differs by more than the limit."""
    expected, got = (Path(path).read_text().splitlines() for path in sys.argv[1:])
    case, largest = "", 0.0
    for line, other in zip(expected, got, strict=True):
        name, *sums = line.split()
        if name == "#":
            case = line
            continue
        for a, b in zip(sums, other.split()[1:], strict=True):
            difference = abs(float(a) - float(b)) / float(sums[-1])
            if not difference <= LIMIT:
                sys.exit(f"{case}: expected {line}, got {other}")
            largest = max(largest, difference)
    print(f"{len(expected)} lines agree to {largest:.1e}")


if __name__ == "__main__":
    main()
