"""Answers worked out in a thread: kept, overtaken, told of, never in the way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from engine.errors import InputError
from fiddler_viz.views import background
from fiddler_viz.views.background import Answer, Background, Progress, Question, Same

WAIT_S = 20.0


class News:
    """Counts what it hears."""

    def __init__(self) -> None:
        self.came = threading.Event()

    def __call__(self) -> None:
        self.came.set()

    def wait(self) -> None:
        assert self.came.wait(WAIT_S)
        self.came.clear()


def question(name: str, work: Callable[[Progress], Any]) -> Question:
    return Question((name,), work)


def test_an_answer_is_kept_for_what_it_is_about() -> None:
    news, asked = News(), list[str]()
    of = Background(news)
    one = question("one", lambda _: asked.append("one") or 41)
    assert of.ask("a run", one) is None
    news.wait()
    assert of.ask("a run", question("one", one.work)) == Answer(41)
    assert of.join(WAIT_S) and asked == ["one"]
    assert of.ask("another run", one) is None
    news.wait()
    assert asked == ["one", "one"]
    assert repr(of).startswith("Background(1 answers")


def test_the_latest_question_wins() -> None:
    news = News()
    of, entered, go = Background(news), threading.Event(), threading.Event()
    ended: list[str] = []

    def slow(progress: Progress) -> str:
        entered.set()
        go.wait(WAIT_S)
        progress(1, 2)  # nobody waits any more
        ended.append("slow")
        return "slow"

    about = object()
    assert of.ask(about, question("slow", slow)) is None
    assert entered.wait(WAIT_S)
    assert of.ask(about, question("never begun", lambda _: ended.append("no"))) is None
    assert of.ask(about, question("last", lambda _: "last")) is None
    go.set()
    news.wait()
    assert of.ask(about, question("last", lambda _: "other")) == Answer("last")
    assert of.join(WAIT_S) and ended == []


def test_what_is_dropped_is_not_answered() -> None:
    news = News()
    of, entered, go = Background(news), threading.Event(), threading.Event()

    def slow(progress: Progress) -> None:
        entered.set()
        go.wait(WAIT_S)
        progress(1, 2)

    of.ask(None, question("slow", slow))
    assert entered.wait(WAIT_S) and of.busy
    of.drop()
    go.set()
    assert of.join(WAIT_S) and not of.busy and not news.came.is_set()


def test_errors_are_answers() -> None:
    news = News()
    of = Background(news)

    def refuse(_: Progress) -> None:
        raise InputError("no layer follows the last one")

    of.ask(None, question("flow", refuse))
    news.wait()
    answer = of.ask(None, question("flow", refuse))
    assert answer is not None and "no layer" in str(answer.error)
    assert answer.error.__traceback__ is None


def test_progress_is_told_when_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PATIENCE_S", 0.01)
    news = News()
    of, go = Background(news), threading.Event()

    def slow(progress: Progress) -> None:
        go.wait(WAIT_S)
        progress(3, 16)
        go.clear()
        go.wait(WAIT_S)

    of.ask(None, question("policies", slow))
    news.wait()  # not a word from the work itself
    assert of.late and of.progress is None
    go.set()
    news.wait()
    assert of.progress == (3, 16)
    go.set()
    assert of.join(WAIT_S)


def test_same_is_equal_to_itself_alone() -> None:
    one, other = [1], [1]
    assert Same(one) == Same(one) != Same(other)
    assert {Same(one): 1}[Same(one)] == 1 and Same(one) != one


def test_what_rests_may_be_replaced_before_it_begins() -> None:
    news, asked = News(), list[str]()
    of = Background(news, "resting")
    for name in ("one", "two", "three"):
        of.ask("a run", Question((name,), lambda _, name=name: asked.append(name), 0.1))
    news.wait()
    assert asked == ["three"]
    of.ask("a run", Question(("four",), lambda _: asked.append("four"), 60.0))
    assert any(thread.name == "fiddler-viz-resting" for thread in threading.enumerate())
    of.close()
    assert of.ask("a run", question("five", lambda _: asked.append("five"))) is None
    assert asked == ["three"] and not of.busy
    assert not any(thread.name == "fiddler-viz-resting" for thread in threading.enumerate())
