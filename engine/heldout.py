"""Held out."""
