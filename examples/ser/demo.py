"""Demo: train the baseline and AAM + ICASA, print a table, leave pictures.

python -m examples.ser.demo                      # SYNTHETIC speech, made on the spot
python -m examples.ser.demo --ravdess path/to/ravdess
"""

import argparse
from pathlib import Path

from examples.errors import user_errors
from examples.ser import train
from examples.ser.synthetic import write_synthetic

RUNS = {"baseline": ["--attention", "none"], "aam-icasa": ["--attention", "icasa", "--aam"]}
SYNTHETIC = ["--epochs", "10", "--lr", "2e-3", "--batch-size", "8"]
RAVDESS = ["--epochs", "8", "--lr", "3e-3"]


def main() -> None:
    """Train both runs on one fold and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ravdess", metavar="ROOT", help="RAVDESS instead of synthetic speech")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    args = parser.parse_args()
    if args.ravdess:
        corpus, out = ["--ravdess", args.ravdess, *RAVDESS], args.out / "ravdess"
    else:
        out = args.out / "synthetic"
        corpus = ["--manifest", str(write_synthetic(out / "corpus", per_class=8)), *SYNTHETIC]
    results = {}
    for name, flags in RUNS.items():
        print(f"\n{name}: {' '.join(flags)}", flush=True)
        results[name] = train.main([*corpus, *flags, "--out", str(out / name)])

    print("\n" + ("RAVDESS" if args.ravdess else "SYNTHETIC speech (no person spoke it)"), end=", ")
    print("one fold, one seed, few epochs: a check that everything runs, not a result")
    print(f"{'run':<12}{'selected by':<20}{'epoch':>6}{'WA':>8}{'UA':>8}{'F1':>8}{'ECE':>8}")
    for name, rows in results.items():
        for row in rows:
            cells = "".join(f"{row[key]:8.2f}" for key in ("WA", "UA", "F1", "ECE"))
            print(f"{name:<12}{row['selection']:<20}{row['epoch']:>6}{cells}")
    print("\npictures and rows:")
    for path in sorted(out.glob("*/*.png")) + sorted(out.glob("*/result.csv")):
        print(f"  {path}")


if __name__ == "__main__":
    with user_errors(train.KEPT):
        main()
