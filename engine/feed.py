"""The feed: the newest of what an engine does, for viewers that pull."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from engine.events import STEPS, TOKENS, Ring
from engine.notes import Note
from engine.plan import Plan


class NoteRing:
    """The last ``capacity`` notes, read like an :class:`engine.events.Ring`."""

    def __init__(self, capacity: int) -> None:
        self._notes: deque[tuple[int, Note]] = deque(maxlen=capacity)
        self.written = 0
        """Notes ever written."""

    def __repr__(self) -> str:
        return f"NoteRing({len(self._notes)} notes, {self.written} written)"

    def write(self, note: Note) -> None:
        """Append one, dropping the oldest when full."""
        self._notes.append((self.written, note))
        self.written += 1

    def read(self, cursor: int = 0) -> tuple[list[Note], int, int]:
        """Return ``(notes since cursor, new cursor, notes lost to overwriting)``."""
        new = [entry for entry in list(self._notes) if entry[0] >= cursor]
        if not new:
            return [], cursor, 0
        return [note for _, note in new], new[-1][0] + 1, new[0][0] - cursor


@dataclass(frozen=True)
class FeedRun:
    """The run that a feed shows, and where in each ring it begins."""

    number: int
    """Counts runs; 0 before the first."""
    clock: int
    plans: Sequence[tuple[int, Plan]]
    """``(first step, plan)``; grows."""
    texts: Sequence[str]
    """Of each token; grows."""
    steps_begin: int = 0
    tokens_begin: int = 0
    notes_begin: int = 0


class Feed:
    """What viewers pull: the newest steps, tokens and notes. One writer, any number of readers.

    Steps and times start from 0 with each run. A viewer that finds another :attr:`run` than it
    knows starts over, with what the rings hold from that run's begin on.
    """

    def __init__(self, capacity: int = 1 << 13) -> None:
        self.steps = Ring(STEPS, 1 << 12)
        self.tokens = Ring(TOKENS, 1 << 12)
        self.notes = NoteRing(capacity)
        self.run = FeedRun(0, 0, (), ())

    def __repr__(self) -> str:
        return f"Feed(run {self.run.number}, {self.steps.written} steps)"

    def begin(self, clock: int, plans: Sequence[tuple[int, Plan]], texts: Sequence[str]) -> None:
        """Another run: all that is written from now on is of it."""
        written = self.steps.written, self.tokens.written, self.notes.written
        self.run = FeedRun(self.run.number + 1, clock, plans, texts, *written)
