"""Widgets: figures that follow an engine or a trace, and the controls beside them."""
