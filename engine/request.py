"""What a run was asked for, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from engine.decode_graphs import KEPT
from engine.errors import InputError
from engine.lineage import Lineage
from engine.options import check_options
from engine.prompt import PromptLike, encode
from engine.strict import whole
from engine.unsupported import why_unchunked

_CACHES = ("past_key_values", "cache_implementation")


@dataclass(frozen=True)
class Limits:
    """What an engine can take."""

    model: PreTrainedModel
    tokenizer: Any | None
    vocabulary: int
    """Rows of the embedding."""
    max_tokens: int
    """KV cache positions reserved for each sequence."""
    max_sequences: int
    """Sequences, beams count, that the KV cache is reserved for."""

    def option(self, options: Mapping[str, Any], name: str) -> Any:
        """What transformers will take: an option, or what a configuration says, or None.

        An option that is given as None holds, too: it switches off what a configuration says.
        """
        if name in options:
            return options[name]
        configs = (options.get("generation_config"), self.model.generation_config)
        values = (getattr(config, name, None) for config in configs)
        return next((value for value in values if value is not None), None)


@dataclass(frozen=True)
class Request:
    """One call of generate. Made by :meth:`of`."""

    ids: Tensor
    """``(prompts, tokens)``, padded on the left."""
    mask: Tensor
    """Of the same shape: 0 on padding."""
    beams: int
    """For each prompt; 1: no beam search."""
    returned: int
    """Answers to each prompt."""
    ends: tuple[int, ...]
    """Ids that end a text."""
    filler: int | None
    """Id from which a text is known to have ended, where more than ``ends`` may end one."""
    seed: int | None
    options: dict[str, Any]
    """For transformers' ``generate``."""
    has_tokenizer: bool

    @classmethod
    def of(
        cls,
        prompt: PromptLike,
        max_new_tokens: int,
        options: Mapping[str, Any],
        limits: Limits,
    ) -> Request:
        """Read and check; raises InputError for what cannot be.

        ``options`` are transformers', and ours: ``seed`` and ``prefill_chunk_tokens``.
        """
        ids, mask = encode(prompt, limits.tokenizer, limits.vocabulary)
        check_options(options, partial(limits.option, options))
        if limits.option(options, "use_cache") is False:
            raise InputError(
                "use_cache=False cannot be passed on to transformers here: each step would "
                "process the whole text again; leave it out"
            )
        beams, returned = (
            _count(name, limits.option(options, name))
            for name in ("num_beams", "num_return_sequences")
        )
        if returned > beams > 1:
            raise InputError(
                f"num_return_sequences={returned}: a search with {beams} beams has no more answers "
                f"than beams; ask for at most {beams}, or for num_beams={returned}"
            )
        _check_room(limits, ids.shape[0] * max(beams, returned), ids.shape[1], max_new_tokens)
        passed = dict(options)
        seed = passed.pop("seed", None)
        chunk_tokens = passed.pop("prefill_chunk_tokens", None)
        if chunk_tokens is not None:
            chunk_tokens = whole("prefill_chunk_tokens", chunk_tokens, least=1)
            _check_chunks(limits.model.config)
            passed["prefill_chunk_size"] = chunk_tokens
        if seed is not None:
            seed = whole("seed", seed, least=0)
        ends = _ids("eos_token_id", limits.option(options, "eos_token_id"))
        padding = _ids("pad_token_id", limits.option(options, "pad_token_id"))
        passed["pad_token_id"] = (*padding, *ends, 0)[0]
        stops = limits.option(options, "stop_strings")
        if stops is not None:
            passed["tokenizer"] = _stopping_tokenizer(stops, options, limits)
        other = options.get("stopping_criteria") is not None or stops is not None
        return cls(
            ids=ids,
            mask=mask,
            beams=beams,
            returned=returned,
            ends=ends,
            filler=passed["pad_token_id"] if other else None,
            seed=seed,
            options=passed,
            has_tokenizer=limits.tokenizer is not None,
        )

    def __repr__(self) -> str:
        prompts, tokens = self.ids.shape
        return f"Request({prompts} x {tokens} tokens, {self.beams} beams, {self.returned} answers)"

    @property
    def per_prompt(self) -> int:
        """Rows of the batch for each prompt."""
        return max(self.beams, self.returned)

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return self.ids.shape[0] * self.per_prompt

    @property
    def answers(self) -> int:
        """Answers to all prompts."""
        return self.ids.shape[0] * self.returned

    def steps_alike(self, limits: Limits) -> bool:
        """Whether each decode step is the one before, but for what tensors hold.

        Not so where beams move in the cache, where padding is masked, where a caller has a cache of
        its own, or keeps more of a step than its token.
        """
        of = partial(limits.option, self.options)
        return (
            self.beams == 1
            and bool(self.mask.all())
            and all(of(name) is None for name in _CACHES)
            and not any(of(name) for name in KEPT)
        )

    def lineage(self) -> Lineage:
        """What follows the batch through its steps. Beams that run have not ended."""
        ends, filler = ((), None) if self.beams > 1 else (self.ends, self.filler)
        return Lineage(self.ids.shape[1], self.per_prompt, ends, filler)

    def check_streamed(self) -> None:
        """Raise InputError unless there is one text that only grows."""
        if self.rows > 1:
            what = f"{self.beams} beams" if self.beams > 1 else f"{self.rows} sequences"
            raise InputError(
                f"one sequence can be streamed, not {what}: call engine.generate() without "
                "on_text, and read the run's texts"
            )
        if not self.has_tokenizer:
            raise InputError(
                "this checkpoint has no tokenizer, so there is no text to stream: call "
                "engine.generate() without on_text, and read the run's tokens"
            )


def _check_chunks(config: Any) -> None:
    why = why_unchunked(config)
    if why is not None:
        raise InputError(
            f"prefill_chunk_tokens: a {config.model_type} cannot take its prompt in chunks: {why}. "
            "Leave prefill_chunk_tokens out; the prompt is then one step"
        )


def _ids(name: str, value: Any) -> tuple[int, ...]:
    """A token id, or several, or none."""
    try:
        ids = torch.as_tensor([] if value is None else value).reshape(-1).tolist()
    except (TypeError, ValueError, RuntimeError):
        ids = [value]
    if not all(type(each) is int and abs(each) < 2**31 for each in ids):
        raise InputError(f"{name}: expected a token id or a list of token ids, got {value!r}")
    return tuple(ids)


def _stopping_tokenizer(stops: Any, options: Mapping[str, Any], limits: Limits) -> Any:
    """What transformers reads the text by in which it looks for ``stop_strings``."""
    texts = [stops] if isinstance(stops, str) else stops
    if (
        not isinstance(texts, list | tuple)
        or not texts
        or not all(isinstance(text, str) and text for text in texts)
    ):
        raise InputError(
            f"stop_strings: expected a text or a list of texts, none empty, got {stops!r}; leave "
            "it out for none"
        )
    tokenizer = options.get("tokenizer", limits.tokenizer)
    if tokenizer is None:
        raise InputError(
            "stop_strings: this checkpoint has no tokenizer to read the text by: pass tokenizer= "
            "as well, or give eos_token_id="
        )
    return tokenizer


def _count(name: str, value: Any) -> int:
    return 1 if value is None else whole(name, value, least=1)


def _check_room(limits: Limits, sequences: int, prompt_tokens: int, new_tokens: int) -> None:
    new_tokens = whole("max_new_tokens", new_tokens, least=1)
    positions = getattr(
        limits.model.config.get_text_config(), "max_position_embeddings", limits.max_tokens
    )
    room = min(limits.max_tokens, positions)
    if prompt_tokens + new_tokens > room:
        why = "the model has" if positions < limits.max_tokens else "max_tokens reserves"
        raise InputError(
            f"{prompt_tokens} prompt tokens and {new_tokens} new ones need "
            f"{prompt_tokens + new_tokens} positions, {why} {room}: shorten the prompt, ask "
            "for fewer tokens" + ("" if positions < limits.max_tokens else ", or load with more")
        )
    if sequences > limits.max_sequences:
        raise InputError(
            f"{sequences} sequences (beams count) need KV cache, max_sequences reserves "
            f"{limits.max_sequences}: load with max_sequences={sequences}"
        )
