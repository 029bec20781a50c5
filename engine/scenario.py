"""One engine used in four ways: one request, a long prompt, a batch, and a beam search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any, cast

from engine.errors import InputError
from engine.run import Run
from engine.strict import check_text, whole

PROMPTS = (
    "To be, or not to be, that is the question:",
    "def main(arguments):\n    for number in",
    "En el principio",
    '{"id": 5070, "name": "Ada',
    "The sum of two and three is",
    "ROMEO:\nBut soft, what light",
    "import numpy as np\n\ndef mean(values):",
    "It was a dark and stormy night;",
)
"""The requests of the batch; the first one is also alone, and what beams are searched for."""


def run_scenarios(
    engine: Any,
    prompt: str | Sequence[str] | None = None,
    *,
    new_tokens: int = 24,
    long_tokens: int = 512,
    beams: int = 4,
) -> dict[str, Run]:
    """Run an engine in four ways under its plan, and return the runs by name.

    ``prompt``: one text or several; None: :data:`PROMPTS`. The first is run alone and with
    ``beams``; the batch are all of them, of one text it and others of :data:`PROMPTS`, as many as
    the engine has sequences, at most 8. The long prompt are ``long_tokens`` tokens of the bundled
    calibration text. Greedy, so that it can be repeated.

    Raises InputError for an engine with room for one sequence, without a tokenizer, or for what
    ``engine.generate`` refuses.
    """
    new_tokens = whole("scenarios, new_tokens", new_tokens, least=2)
    long_tokens = whole("scenarios, long_tokens", long_tokens, least=2)
    beams = whole("scenarios, beams", beams, least=2)
    if engine.tokenizer is None:
        raise InputError(
            "scenarios: this checkpoint has no tokenizer, so there are no texts to run: generate "
            'from token ids, and give the runs by name, such as {"one request": run}.'
        )
    if engine.max_sequences < beams:
        raise InputError(
            f"scenarios: a batch and {beams} beams need KV cache for {beams} sequences, "
            f"max_sequences reserves {engine.max_sequences}: load with max_sequences=8, or give "
            'the runs by name, such as {"one request": run}.'
        )
    asked = cast("object", PROMPTS if prompt is None else prompt)
    many = isinstance(asked, Iterable) and not isinstance(asked, str)
    texts = list(cast("Iterable[Any]", asked)) if many else [cast("Any", asked)]
    for text in texts:
        check_text("scenarios, prompt", text)
    if not texts:
        raise InputError("scenarios, prompt: expected one text or several, got none.")
    if len(texts) == 1:
        texts += [text for text in PROMPTS if text != texts[0]]
    batch = texts[: min(engine.max_sequences, 8)]
    text = resources.files("engine").joinpath("data/calibration.txt").read_text("utf-8")
    long = engine.tokenizer(text, verbose=False)["input_ids"][:long_tokens]
    greedy: dict[str, Any] = {"do_sample": False}
    return {
        "one request": engine.generate(batch[0], new_tokens, **greedy),
        "long prompt": engine.generate(long, 2, **greedy),
        f"batch of {len(batch)}": engine.generate(batch, new_tokens, **greedy),
        f"{beams} beams": engine.generate(batch[0], new_tokens, num_beams=beams, **greedy),
    }
