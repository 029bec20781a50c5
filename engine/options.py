"""Options of transformers' generate: which of them a run's record can bear."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig
from transformers import UnbatchedClassifierFreeGuidanceLogitsProcessor as _Guidance

from engine.errors import FiddlerError, InputError
from engine.strict import check_number, plain

_PROMPT = "give it as the prompt"
_REFUSED = {
    "inputs": _PROMPT,
    "input_ids": _PROMPT,
    "inputs_embeds": "give the prompt as text or token ids",
    "streamer": "use on_text=, or engine.stream()",
    "attention_mask": "give the prompt as text, or as several texts, which are padded and masked, "
    "or all that the tokenizer returned as the prompt",
    "return_dict_in_generate": "the run has tokens and trace; call engine.model.generate for more",
    "custom_generate": "steps of another loop than transformers' own are not recorded",
    "prefill_chunk_size": "use prefill_chunk_tokens=",
}
"""Options of transformers' generate that would break a run's record -> what to do instead."""

_GUESSED = "steps of several guessed tokens are not recorded yet"
_TWICE = "it runs the model more than once for each token, and only one of these is a step"
_MOVED = "its loop is no longer a part of transformers, and steps of others are not recorded"
_MODES: Mapping[str, tuple[Any, str]] = {
    "assistant_model": (None, _GUESSED),
    "assistant_early_exit": (None, _GUESSED),
    "prompt_lookup_num_tokens": (None, _GUESSED),
    "use_mtp": (False, _GUESSED),
    "guidance_scale": (1, _TWICE),
    "penalty_alpha": (0, _TWICE),
    "dola_layers": (None, _MOVED),
    "constraints": (None, _MOVED),
    "force_words_ids": (None, _MOVED),
    "num_beam_groups": (1, _MOVED),
    "token_healing": (False, "it rewrites the prompt with runs of its own, which are no steps"),
}
"""What makes transformers call the model in other ways than once for each step, also where a
configuration asks for it -> the value that switches it off (None always does), and why not."""


def check_options(options: Mapping[str, Any], taken: Callable[[str], Any]) -> None:
    """Raise InputError for options of transformers' generate that cannot be recorded, or be.

    ``taken``: of an option's name what transformers will take, whoever said it: the caller, or a
    configuration.
    """
    config = options.get("generation_config")
    if not isinstance(config, GenerationConfig | None):
        raise InputError(
            "generation_config: expected a transformers.GenerationConfig, got "
            f"{reprlib.repr(config)}; single options can be given by name, such as do_sample=False"
        )
    for name, why in _REFUSED.items():
        if options.get(name) is not None and options[name] is not False:
            raise InputError(f"{name} cannot be passed on to transformers here: {why}")
    for name, (off, why) in _MODES.items():
        value = taken(name)
        if value is not None and not _is(value, off):
            raise InputError(
                f"{name}={reprlib.repr(value)} cannot be used here: {why}. Leave it out"
                + ("" if name in options else f": a configuration has it, {name}={off} goes first")
            )
    if _is(taken("cache_implementation"), "paged"):
        raise InputError(
            "cache_implementation='paged' cannot be used here: it runs another loop, whose steps "
            "are not recorded; leave it out"
        )
    if (longest := taken("max_time")) is not None:
        check_number("max_time (seconds)", plain(longest), zero=True)
    for name in ("logits_processor", "stopping_criteria"):
        given = options.get(name)
        if given is not None and not (
            isinstance(given, list | tuple) and all(map(callable, given))
        ):
            raise InputError(
                f"{name}: expected a list of what transformers can call, got {reprlib.repr(given)}"
            )
        if any(isinstance(each, _Guidance) for each in given or ()):
            raise InputError(f"{name}: {_Guidance.__name__} cannot be used here: {_TWICE}")


@contextmanager
def options_refused(begun: Callable[[], bool]) -> Iterator[None]:
    """What transformers refuses before the first step comes out as InputError: its options are why.

    ``begun``: whether there was a step. From then on everything comes out as it is, and so does
    ever what no wrong value or type leads to: that may be the model, or a bug. (transformers does
    not check all types: an option of a wrong one may show as an AttributeError.)
    """
    try:
        yield
    except (AttributeError, TypeError, ValueError) as error:
        if begun() or isinstance(error, FiddlerError):
            raise
        reason = str(error).strip().rstrip(".")
        raise InputError(
            f"transformers cannot generate with these options: {reason}. Leave out or change what "
            "it names; nothing has run"
        ) from error


def _is(value: Any, off: Any) -> bool:
    """Whether an option is that value; arrays are none."""
    value = plain(value)
    return isinstance(value, bool | int | float | str) and value == off
