"""The charts of the detail panel, in the order of its menu. A new one is a class here."""

from __future__ import annotations

from collections.abc import Callable

from fiddler_viz.views.charts.base import Chart, Drawn, Room
from fiddler_viz.views.charts.budgets import Budgets
from fiddler_viz.views.charts.crossover import CrossoverChart
from fiddler_viz.views.charts.flow import RoutingFlow
from fiddler_viz.views.charts.hit_rates import HitRates
from fiddler_viz.views.charts.policies import PolicyLab
from fiddler_viz.views.charts.why import Why

__all__ = ["Chart", "Drawn", "Room", "make_charts"]


def make_charts(
    on_change: Callable[[], None], on_policy: Callable[[str], None]
) -> dict[str, Chart]:
    """By name. ``on_change``: a control beside a chart moved; ``on_policy``: one was clicked."""
    charts = (
        Why(),
        CrossoverChart(on_change),
        HitRates(),
        Budgets(),
        RoutingFlow(),
        PolicyLab(on_policy),
    )
    return {chart.name: chart for chart in charts}
