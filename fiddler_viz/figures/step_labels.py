"""Steps in a word or two, for the top of the timeline."""

from __future__ import annotations

from collections.abc import Sequence

from engine.events import StepKind
from engine.trace import Trace
from fiddler_viz.theme import count, show_token


class StepLabels(Sequence[str]):
    """The steps of a trace, raw text, made when asked for: few are ever in view."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __len__(self) -> int:
        return len(self._trace.step_rows)

    def __getitem__(self, step: int) -> str:  # type: ignore[override]  # no slices needed
        trace, steps = self._trace, self._trace.steps
        if steps["kind"][step] == StepKind.PREFILL:
            return f"prefill, {count(int(steps['tokens'][step]), 'token')}"
        token = int(steps["token"][step])
        one = steps["sequences"][step] == 1  # of several texts, none stands for the step
        if one and trace.texts and 0 <= token < len(trace.texts):
            return f"“{show_token(trace.texts[token], 12).strip()}”"
        return f"step {step}"
