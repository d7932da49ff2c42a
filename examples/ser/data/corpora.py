"""What a corpus is: its clips with their labels, speakers and folds, and its problems.

A loader (`ravdess`, `manifest`, `iemocap`) reads names and tables, never audio, and lists every
problem it finds in `Corpus.problems`. `feature_cache.load_frames` reads the audio once, adds the
problems found there, and raises them all together as one `CorpusError`; with ``skip_bad=True`` it
leaves those clips out and says so in `Corpus.notes`. `splits.split` refuses a corpus with open
problems.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from examples.errors import UserError

GENDERS = {"": "", "m": "male", "male": "male", "f": "female", "female": "female"}
NAMED = 3  # problems of one kind that a message names; it counts the others


class CorpusError(UserError):
    """All problems of a corpus in one list: for each the file, what is wrong and a hint.

    The message names the first few of each kind and counts the others; `problems` has them all.
    """

    def __init__(self, name: str, problems: Sequence[str], hint: str = "") -> None:
        self.problems = tuple(problems)
        lines = [f"corpus {name}: {len(self.problems)} problem(s)"]
        lines += [f"  - {line}" for line in grouped(self.problems)]
        super().__init__("\n".join(lines + [hint] * bool(hint)))


def grouped(problems: Iterable[str]) -> list[str]:
    """Return the first few problems of each kind, and a line that counts the others."""
    kinds = defaultdict(list)
    for problem in problems:
        kinds[_kind(problem)].append(problem)
    lines = []
    for found in kinds.values():
        lines += found[:NAMED]
        if len(found) > NAMED:
            lines.append(f"and {len(found) - NAMED} more like this ({len(found)} in all)")
    return lines


def _kind(problem: str) -> str:
    """Return what problems of one kind share: what was expected and the hint, without numbers."""
    expected = re.search(r"expected .*?(?=, got )", problem)
    _, has_hint, hint = problem.rpartition("; ")
    same = f"{expected[0] if expected else ''}; {hint}" if expected or has_hint else problem
    return re.sub(r"\d+", "#", same)


def few(names: Sequence[str], most: int = 4) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def is_hidden(path: str | Path) -> bool:
    """Whether macOS wrote the file beside those of the corpus: ._* or .DS_Store."""
    name = Path(path).name
    return name.startswith("._") or name == ".DS_Store"


@dataclass(frozen=True)
class Utterance:
    """One clip. `gender` is "male", "female" or "" (unknown); `fold` is its test fold."""

    id: str
    path: Path
    label: str
    speaker: str
    gender: str = ""
    session: str = ""
    fold: int | None = None


@dataclass(frozen=True)
class Corpus:
    """Clips, and the classes in order.

    `notes` report harmless deviations and skipped clips; `problems` are still open.
    """

    name: str
    labels: tuple[str, ...]
    utterances: tuple[Utterance, ...]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers, sorted; `Segments.speaker` indexes this."""
        return tuple(sorted({u.speaker for u in self.utterances}))

    @property
    def folds(self) -> tuple[int, ...]:
        """The test folds, sorted."""
        return tuple(sorted({u.fold for u in self.utterances if u.fold is not None}))

    def select_labels(self, labels: Sequence[str]) -> Corpus:
        """Return the corpus with these classes in this order, and a note of what is left out.

        Raises:
            CorpusError: a class is given twice, or has no clip; or only one is given.
        """
        known = Counter(u.label for u in self.utterances)
        if unknown := [label for label in labels if label not in known]:
            fault = f"expected --labels among {', '.join(self.labels)}, got {', '.join(unknown)}"
            raise CorpusError(self.name, [f"{fault}; correct the spelling"])
        if len(set(labels)) != len(labels) or len(labels) < 2:
            fault = f"expected two --labels or more, each once, got {' '.join(labels)}"
            raise CorpusError(self.name, [f"{fault}; give the classes to keep"])
        left = [f"{label} {known[label]}" for label in self.labels if label not in labels]
        notes = (f"clips of other classes left out: {', '.join(left) or 'none'}",)
        kept = tuple(u for u in self.utterances if u.label in labels)
        return replace(self, labels=tuple(labels), utterances=kept, notes=self.notes + notes)

    def raise_or_skip(self, found: Sequence[str], bad: Iterable[str], *, skip_bad: bool) -> Corpus:
        """Raise all problems, with those `found` in the audio; or leave out the `bad` ids.

        Raises:
            CorpusError: there are problems and ``skip_bad`` is off, or no clip is left.
        """
        problems = (*self.problems, *found)
        if problems and not skip_bad:
            hint = "Fix these; skip_bad=True (--skip-bad) leaves bad clips out."
            raise CorpusError(self.name, problems, hint)
        dropped = set(bad)
        left = tuple(u for u in self.utterances if u.id not in dropped)
        if not left:
            raise CorpusError(self.name, (*problems, "expected a usable clip, got none"))
        skipped = tuple(f"skipped: {problem}" for problem in problems)
        return replace(self, utterances=left, notes=self.notes + skipped, problems=())
