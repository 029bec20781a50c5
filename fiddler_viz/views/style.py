"""The look of the explorer: one scoped style sheet, and the theme's colours as its variables."""

from __future__ import annotations

from pathlib import Path

from fiddler_viz.theme import Theme

_SHEET = Path(__file__).with_name("style.css")


def style_sheet(theme: Theme) -> str:
    """The ``<style>`` element of one theme; its rules reach only what stands in ``.fv-root``.

    Colours are variables of the class ``fv-<theme>``: explorers of two themes share one page.
    """
    dark = theme.name == "dark"
    colors = {
        "scheme": {"dark": "dark", "light": "light"}.get(theme.name, "normal"),
        "accent": "#56B4E9" if dark else "#0072B2",
        "on-accent": "#14171c" if dark else "#ffffff",
        "error": "#D55E00",
        "paper": theme.paper,
        "panel": theme.panel,
        "text": theme.text,
        "muted": theme.muted,
        "rule": theme.rule,
        "font": theme.font,
        "mono": theme.mono,
    }
    variables = " ".join(f"--fv-{name}: {value};" for name, value in colors.items())
    sheet = _SHEET.read_text(encoding="utf-8")
    return f"<style>.fv-{theme.name} {{ {variables} }}\n{sheet}</style>"
