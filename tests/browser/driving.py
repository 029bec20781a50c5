"""What a reader does with an explorer in a browser, and what it then shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import TimeoutError

SLOW_MS = 180_000
"""A cold start of kernel, torch and model on two busy cores."""
WAIT_MS = 90_000
ROOT = ".fv-root"
HEATMAP, DETAIL, TIMELINE = (
    f"{ROOT} .fv-{name} .js-plotly-plot" for name in ("heatmap", "detail", "timeline")
)


@dataclass(frozen=True)
class Shown:
    """What the page shows, read from what plotly drew and from the page's text."""

    pinned: int
    """Experts with an outline in the heatmap."""
    title: str
    """Of the heatmap."""
    memory: str
    """Text of the memory bar."""
    state: str
    window: tuple[float, float]
    """What the timeline's axis shows, in seconds."""


_READ = """() => {
  const root = document.querySelector('.fv-root');
  const [heat, time] = ['.fv-heatmap', '.fv-timeline'].map(
    (view) => root.querySelector(view + ' .js-plotly-plot'));
  const points = (n) => (heat._fullData[n].x ?? []).length;
  return {
    pinned: Math.round((points(1) + points(2)) / 6),
    title: heat.closest('.fv-heatmap').querySelector('.fv-heading').textContent,
    memory: root.querySelector('[role=img]').getAttribute('aria-label'),
    state: root.querySelector('.fv-state').textContent,
    window: time._fullLayout.xaxis.range,
  };
}"""


class Driver:
    """One explorer on one page. Every wait is on something a reader would see."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.root = page.locator(ROOT)

    def opened(self) -> None:
        """Wait until all plots are drawn, and bring them into view."""
        self.root.wait_for(state="attached", timeout=SLOW_MS)
        self.page.wait_for_function(
            "(plots) => plots.every((plot) => document.querySelector(plot + ' .cartesianlayer'))",
            arg=[HEATMAP, DETAIL, TIMELINE],
            timeout=SLOW_MS,
        )
        # JupyterLab lays out only what is in view, and more cells may still grow above it.
        self.page.evaluate("document.querySelector('.fv-root').scrollIntoView({block: 'start'})")
        self.page.locator(f"{HEATMAP} .main-svg").first.wait_for(timeout=SLOW_MS)

    def shown(self) -> Shown:
        """What is to be seen now."""
        values = self.page.evaluate(_READ)
        return Shown(**{**values, "window": tuple(values["window"])})

    def until(self, script: str, value: Any = None) -> None:
        """Wait until a script about what is shown (``s``, and ``v`` the value) is true."""
        try:
            self.page.wait_for_function(
                f"(v) => {{ const s = ({_READ})(); return {script}; }}", arg=value, timeout=WAIT_MS
            )
        except TimeoutError as error:
            status = self.root.locator("[role=status]").all_inner_texts()
            raise AssertionError(
                f"never came: {script}, v = {value}; shown: {self.shown()}; "
                f"memory slider at {self.memory()}; status: {status}"
            ) from error

    def run(self, tokens: int) -> None:
        """Press Run, and wait until the run shows."""
        field = self.root.locator("input[type=number]").first
        field.fill(str(tokens))
        field.press("Tab")
        self.root.get_by_role("button", name="Run").click()
        self.until("s.state == 'running' && s.title.includes('live, after step')")

    def stop(self) -> None:
        """Press Stop, and wait until it has stopped."""
        self.root.get_by_role("button", name="Stop").click()
        self.until("s.state == 'ready'")

    def memory(self) -> float:
        """Where the memory slider's handle is, in its own unit."""
        return float(self.root.locator(".noUi-handle").first.get_attribute("aria-valuetext"))

    def move_memory(self, presses: int) -> None:
        """Focus the memory slider, and press an arrow key."""
        handle = self.root.locator(".noUi-handle").first
        handle.focus()
        for _ in range(presses):
            handle.press("ArrowRight")

    def shoot(self, path: Path) -> None:
        """Keep a picture of the window as it is."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path))
