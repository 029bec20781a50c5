"""Figures: pure functions from arrays to plotly figures, and one line for each."""

from __future__ import annotations

from fiddler_viz.figures.budget_speeds import (
    budget_speeds,
    budget_speeds_figure,
    describe_budget_speeds,
)
from fiddler_viz.figures.crossover import (
    crossing,
    crossover,
    crossover_figure,
)
from fiddler_viz.figures.crossover_words import describe_crossover
from fiddler_viz.figures.heatmap import heatmap_figure, update_heatmap
from fiddler_viz.figures.heatmap_words import describe_heatmap
from fiddler_viz.figures.hit_rates import describe_hit_rates, hit_rates, hit_rates_figure
from fiddler_viz.figures.inspector import inspector_figure, update_inspector
from fiddler_viz.figures.inspector_words import describe_inspection
from fiddler_viz.figures.memory import (
    describe_memory,
    memory_figure,
    memory_html,
    update_memory,
)
from fiddler_viz.figures.memory_over_time import (
    describe_memory_over_time,
    memory_over_time,
    memory_over_time_figure,
    update_memory_over_time,
)
from fiddler_viz.figures.oneline import heatmap, inspect, memory, timeline, tokens
from fiddler_viz.figures.plans import comparison, plans, plans_figure
from fiddler_viz.figures.plans_words import describe_plans
from fiddler_viz.figures.policy_lab import policy_lab, policy_lab_figure
from fiddler_viz.figures.policy_lab_words import describe_policy_lab
from fiddler_viz.figures.room import Room, room_of
from fiddler_viz.figures.routing_flow import (
    describe_routing_flow,
    routing_flow,
    routing_flow_figure,
)
from fiddler_viz.figures.scenarios import scenarios, scenarios_figure, scenarios_of
from fiddler_viz.figures.scenarios_words import describe_scenarios
from fiddler_viz.figures.source import as_trace
from fiddler_viz.figures.specialisation import (
    domains_of,
    specialisation,
    specialisation_figure,
)
from fiddler_viz.figures.specialisation_words import describe_specialisation
from fiddler_viz.figures.strip import TokenStrip, strip_html
from fiddler_viz.figures.strip_words import describe_strip
from fiddler_viz.figures.timeline import timeline_figure, update_timeline
from fiddler_viz.figures.timeline_words import describe_timeline
from fiddler_viz.figures.window import Window, Windows, live_window, window

__all__ = [
    "Room",
    "TokenStrip",
    "Window",
    "Windows",
    "as_trace",
    "budget_speeds",
    "budget_speeds_figure",
    "comparison",
    "crossing",
    "crossover",
    "crossover_figure",
    "describe_budget_speeds",
    "describe_crossover",
    "describe_heatmap",
    "describe_hit_rates",
    "describe_inspection",
    "describe_memory",
    "describe_memory_over_time",
    "describe_plans",
    "describe_policy_lab",
    "describe_routing_flow",
    "describe_scenarios",
    "describe_specialisation",
    "describe_strip",
    "describe_timeline",
    "domains_of",
    "heatmap",
    "heatmap_figure",
    "hit_rates",
    "hit_rates_figure",
    "inspect",
    "inspector_figure",
    "live_window",
    "memory",
    "memory_figure",
    "memory_html",
    "memory_over_time",
    "memory_over_time_figure",
    "plans",
    "plans_figure",
    "policy_lab",
    "policy_lab_figure",
    "room_of",
    "routing_flow",
    "routing_flow_figure",
    "scenarios",
    "scenarios_figure",
    "scenarios_of",
    "specialisation",
    "specialisation_figure",
    "strip_html",
    "timeline",
    "timeline_figure",
    "tokens",
    "update_heatmap",
    "update_inspector",
    "update_memory",
    "update_memory_over_time",
    "update_timeline",
    "window",
]
