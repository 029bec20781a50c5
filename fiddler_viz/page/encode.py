"""Arrays and texts on their way into the page."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np


def packed(values: Any, dtype: str) -> str:
    """Base64 of little-endian bytes."""
    array = np.ascontiguousarray(values).astype(dtype)
    return base64.b64encode(array.tobytes()).decode("ascii")


def to_json(values: Any) -> str:
    """JSON for a script element: ``<``, ``>`` and ``&`` as escapes, so that nothing ends it."""
    text = json.dumps(values, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
