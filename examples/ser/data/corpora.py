"""What a corpus is: its clips with their labels, speakers and folds, and its problems.

A loader (`ravdess`, `manifest`, `iemocap`) reads names and tables, never audio, and lists every
problem it finds in `Corpus.problems`. `frames.load_frames` reads the audio once, adds the problems
found there, and raises them all together as one `CorpusError`; with ``skip_bad=True`` it leaves
those clips out and says so in `Corpus.notes`. `splits.split` refuses a corpus with open problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

GENDERS = {"": "", "m": "male", "male": "male", "f": "female", "female": "female"}


class CorpusError(ValueError):
    """All problems of a corpus in one list: for each the file, what is wrong and a hint."""

    def __init__(self, name: str, problems: Sequence[str], hint: str = "") -> None:
        self.problems = tuple(problems)
        lines = [f"corpus {name}: {len(self.problems)} problem(s)"]
        lines += [f"  - {problem}" for problem in self.problems]
        super().__init__("\n".join(lines + [hint] * bool(hint)))


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

    def raise_or_skip(self, found: Sequence[str], bad: Iterable[str], *, skip_bad: bool) -> Corpus:
        """Raise all problems, with those `found` in the audio; or leave out the `bad` ids.

        Raises:
            CorpusError: there are problems and ``skip_bad`` is off, or no clip is left.
        """
        problems = (*self.problems, *found)
        if problems and not skip_bad:
            hint = "Fix these, or pass skip_bad=True (--skip-bad) to leave these clips out."
            raise CorpusError(self.name, problems, hint)
        dropped = set(bad)
        left = tuple(u for u in self.utterances if u.id not in dropped)
        if not left:
            raise CorpusError(self.name, (*problems, "expected a usable clip, got none"))
        skipped = tuple(f"skipped: {problem}" for problem in problems)
        return replace(self, utterances=left, notes=self.notes + skipped, problems=())
