"""Mutation testing: change one thing in a copy of icasa, and see that a test fails.

``python -m tests.mutation`` draws mutants of `FILES` by Cosmic Ray's operators, and runs on each
the test files that mirror its file. It writes a row a mutant to tests/results/mutation.csv, and
goes on where it was stopped. A place is drawn by a hash of its line, so a change elsewhere leaves
the draw as it is. tests/results/survivors.csv, written by hand, says why a survivor need not be
killed; ``--again survived`` runs the others anew.
"""

import argparse
import ast
import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch._dynamo  # noqa: F401 - so that each mutant is spared the time
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from examples.provenance import Row, git_commit, read_csv, write_csv

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "tests" / "results"
FOLDERS = ("attention", "augment", "kernels")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / "icasa" / folder).glob("*.py"))]
LEAST = 0.97  # of the mutants must be killed, or survive for a reason
COPIED = ("icasa", "tests", "examples", "README.md", "hatch_build.py", "pyproject.toml")

LAYER = tuple(f"tests/test_{name}.py" for name in ("errors", "padding", "contract"))
KERNEL = tuple(
    f"tests/kernels/test_{name}.py" for name in ("ops", "layers", "attend", "native", "weigh")
)
ADAPTER = tuple(f"tests/attention/test_{name}.py" for name in ("fused_parts", "misfits", "fused"))
# What is run for a file, by its path or its folder, after the test file of its name.
TESTS = {
    "attention": (*LAYER, ADAPTER[2]),
    "attention/_fused.py": (ADAPTER[0], KERNEL[1], *ADAPTER[1:]),
    "attention/_operands.py": (ADAPTER[0], KERNEL[1], *ADAPTER[1:]),
    "augment/aam.py": ("tests/augment/test_pairs.py", "tests/augment/test_watch.py"),
    "augment/draw.py": tuple(f"tests/augment/test_{name}.py" for name in ("mixup", "crop", "aam")),
    "augment/labels.py": tuple(f"tests/augment/test_{name}.py" for name in ("mixup", "aam")),
    "augment/pairs.py": ("tests/augment/test_aam.py",),
    "kernels": KERNEL,
    "kernels/__init__.py": (*KERNEL, *ADAPTER),
}


class Mutant(NamedTuple):
    """One change of one line."""

    name: str
    file: str
    line: int
    change: str
    code: str


def annotations(code: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where types stand, whose mutants change nothing that runs, or fail at the import."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef):
            found.append(node.returns)
        elif isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
    spans = [node for node in found if node is not None]
    return [((n.lineno, n.col_offset), (n.end_lineno or 0, n.end_col_offset or 0)) for n in spans]


def digest(*words: object) -> str:
    return hashlib.sha256("\0".join(map(str, words)).encode()).hexdigest()


def mutations(path: Path) -> Iterator[tuple[tuple[int, int], str, int]]:
    """Place, operator and occurrence of every mutation of a file."""
    code = path.read_text()
    types, nodes = annotations(code), list(ast_nodes(get_ast(code)))
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue
        places = (place for node in nodes for place in operator().mutation_positions(node))
        for occurrence, (start, _) in enumerate(places):
            if name != "core/NoOp" and not any(a <= start < b for a, b in types):
                yield start, name, occurrence


def draw(seed: int, count: int) -> list[Mutant]:
    """Return `count` mutants, at most one of a place."""
    chosen = []
    for path in FILES:
        file, lines = str(path.relative_to(ROOT)), path.read_text().splitlines()
        seen: Counter[tuple[str, int]] = Counter()
        places: dict[tuple[int, int], list[tuple[str, int]]] = {}
        for place, *operator in sorted(mutations(path)):
            places.setdefault(place, []).append((operator[0], operator[1]))
        for (line, column), operators in places.items():
            text = lines[line - 1], column
            seen[text] += 1
            rank = digest(seed, file, *text, seen[text])
            operator = min(operators, key=lambda o, rank=rank: digest(rank, o[0]))
            chosen.append((rank, path, line, *operator))
    return [mutate(*one) for one in sorted(chosen)[:count]]


def mutate(rank: str, path: Path, line: int, operator: str, occurrence: int) -> Mutant:
    code = path.read_text()
    changed = mutate_code(code, get_operator(operator)(), occurrence)
    pairs = zip(code.splitlines(), changed.splitlines(), strict=False)
    old, new = next((a.strip(), b.strip()) for a, b in pairs if a != b)
    return Mutant(rank[:12], str(path.relative_to(ROOT)), line, f"{old} -> {new}", changed)


def mirrored(file: str) -> list[str]:
    """Return the test files of a source file, its own first."""
    short = Path(file).relative_to("icasa")
    own = f"tests/{short.parent}/test_{short.stem}.py"
    more = TESTS.get(str(short), TESTS.get(str(short.parent), ()))
    return list(dict.fromkeys([*[own] * (ROOT / own).is_file(), *more]))


def test(folder: Path, tests: list[str]) -> None:
    """Run tests in `folder` until one fails, in a process forked from one that has read torch."""
    os.setsid()
    os.chdir(folder)
    for name in [n for n in sys.modules if n.split(".")[0] in ("tests", "examples", "__main__")]:
        del sys.modules[name]
    sys.modules["__main__"] = ModuleType("__main__")  # which a test's own processes read anew
    sys.path[:] = [str(folder), *(p for p in sys.path if p and Path(p) != ROOT)]
    os.environ["PYTHONPATH"] = str(folder)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests]))


def run(folder: Path, tests: list[str], limit: float) -> str:
    """Say how tests end: "killed", "survived" or "timeout"."""
    process = multiprocessing.get_context("fork").Process(target=test, args=(folder, tests))
    process.start()
    process.join(limit)
    if process.exitcode is None:
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        return "timeout"
    return "killed" if process.exitcode else "survived"


def copy(folder: Path) -> None:
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            leave = shutil.ignore_patterns("__pycache__", "results")
            shutil.copytree(source, target, ignore=leave)
        else:
            shutil.copy(source, target)


def row_of(mutant: Mutant, folder: Path, limit: float) -> Row:
    """Run the tests of a mutant, and say how they ended."""
    start, target = time.perf_counter(), folder / mutant.file
    code = target.read_text()
    target.write_text(mutant.code)
    status = run(folder, mirrored(mutant.file), limit)
    target.write_text(code)
    return {
        "mutant": mutant.name,
        "file": mutant.file,
        "line": mutant.line,
        "change": mutant.change,
        "status": status,
        "seconds": round(time.perf_counter() - start),
    }


def reasons() -> set[str]:
    """Name the survivors that need not be killed."""
    return {row["mutant"] for row in read_csv(RESULTS / "survivors.csv")}


def finish(rows: list[Row], seed: int) -> None:
    """Count the mutants by status, and raise where too many survived without a reason."""
    left = {row["mutant"] for row in rows if row["status"] == "survived"}
    counts = Counter(row["status"] for row in rows)
    print(
        f"{len(rows)} mutants of seed {seed}: {counts['killed']} killed, {counts['timeout']} past "
        f"the time limit, {len(left)} survived, {len(left & reasons())} of them with a reason"
    )
    if len(left - reasons()) > (1 - LEAST) * len(rows):
        raise SystemExit(f"expected {LEAST:.0%} to be killed or explained, got less; see {RESULTS}")


def main() -> None:
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--mutants", type=int, default=300)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--limit", type=float, default=600, help="seconds for the tests of a mutant")
    flags.add_argument("--again", help="a status whose mutants without a reason are run anew")
    args = flags.parse_args()
    path, mutants = RESULTS / "mutation.csv", draw(args.seed, args.mutants)
    known = read_csv(path) if path.is_file() else []
    anew = {row["mutant"] for row in known if row["status"] == args.again} - reasons()
    done = {row["mutant"]: row for row in known if row["mutant"] not in anew}
    sound: set[str] = set()  # test files that pass without a mutation
    missing = [mutant for mutant in mutants if mutant.name not in done]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy(folder)
        facts = {"seed": args.seed, "commit": git_commit()}  # of the copy
        for mutant in missing:
            tests = mirrored(mutant.file)
            new = [name for name in tests if name not in sound]
            if new and run(folder, new, args.limit) != "survived":
                raise SystemExit(f"expected {' '.join(new)} to pass on icasa as it is")
            sound.update(new)
            done[mutant.name] = row_of(mutant, folder, args.limit) | facts
            rows = [done[m.name] for m in mutants if m.name in done]
            write_csv(path, rows)
            what = f"{done[mutant.name]['status']} {mutant.file}:{mutant.line}"
            print(f"{len(rows)}/{len(mutants)} {what}", flush=True)
    finish([done[mutant.name] for mutant in mutants], args.seed)


if __name__ == "__main__":
    main()
