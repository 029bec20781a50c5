"""Generation: transformers' own ``generate``, recorded, stoppable, and never lost."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from engine.collector import Collector
from engine.errors import InputError
from engine.plan import Plan
from engine.prompt import PromptLike, TokenTexts, encode
from engine.recorder import Recorder
from engine.run import Run
from engine.session import Session, Stopped
from engine.spec import ModelSpec
from engine.threads import torch_threads
from engine.trace import Start

_REFUSED = {
    "streamer": "use on_text=, or engine.stream()",
    "attention_mask": "give the prompt as text, or as several texts, which are padded and masked",
    "return_dict_in_generate": "the run has tokens and trace; call engine.model.generate for more",
    "assistant_model": "steps of several guessed tokens are not recorded yet",
    "prompt_lookup_num_tokens": "steps of several guessed tokens are not recorded yet",
}
"""Options of transformers' generate that would break a run's record -> what to do instead."""


class Generator:
    """Runs prompts through a model that is attached to a session, one at a time."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any | None,
        texts: TokenTexts,
        session: Session,
        spec: ModelSpec,
        *,
        vocabulary: int,
        max_tokens: int,
        max_sequences: int,
        threads: int,
        usual_threads: int,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.session = session
        self.recorder: Recorder | None = None
        """Of the newest recorded run, finished or not."""
        self.last_run: Run | None = None
        self._texts = texts
        self._spec = spec
        self._vocabulary = vocabulary
        self.max_tokens, self.max_sequences = max_tokens, max_sequences
        self._threads = threads, usual_threads

    def __repr__(self) -> str:
        return f"Generator({type(self.model).__name__})"

    def generate(
        self,
        prompt: PromptLike,
        max_new_tokens: int,
        about: Mapping[str, Any],
        *,
        on_text: Callable[[str], None] | None = None,
        record: bool = True,
        **options: Any,
    ) -> Run:
        """See :meth:`engine.hybrid.HybridEngine.generate`; ``about`` goes into the trace's meta."""
        ids, mask = encode(prompt, self.tokenizer, self._vocabulary)
        beams, returned = self._checked(options)
        rows = ids.shape[0] * returned
        self._check_room(max(ids.shape[0] * beams, rows), ids.shape[1], max_new_tokens)
        config = self.model.generation_config
        if config.pad_token_id is None and "pad_token_id" not in options:
            eos = config.eos_token_id
            options["pad_token_id"] = eos[0] if isinstance(eos, list) else (eos or 0)
        collector = Collector(rows, self.tokenizer, on_text)
        if beams == 1:
            options["streamer"] = collector
        owner = object()
        recorder: Recorder | None = None
        ended = "error"
        try:
            recorder = self.session.begin_run(owner, self._new_recorder, record=record)
            if record:
                self.recorder = recorder
            with torch_threads(*self._threads):
                out = self.model.generate(
                    ids, attention_mask=mask, max_new_tokens=max_new_tokens, **options
                )
            if beams > 1:
                collector.tokens = out[:, ids.shape[1] :].tolist()
            ended = self._how_it_ended(collector.tokens, max_new_tokens)
        except Stopped:
            ended = "stopped"
        except BaseException as error:
            ended = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
            if recorder is not None and recorder.token_count:
                error.add_note(_kept(collector))
            raise
        finally:
            self.session.end_run(owner)
            if recorder is not None and (recorder.token_count or ended != "error"):
                if record and beams == 1:
                    self._last_tokens(recorder, collector.tokens)
                self.last_run = self._run(prompt, recorder, collector.tokens, ended, about)
        assert self.last_run is not None
        return self.last_run

    def stream(
        self, prompt: PromptLike, max_new_tokens: int, about: Mapping[str, Any], **options: Any
    ) -> Iterator[str]:
        """See :meth:`engine.hybrid.HybridEngine.stream`."""
        pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()

        def work() -> None:
            try:
                self.generate(prompt, max_new_tokens, about, on_text=pieces.put, **options)
                pieces.put(None)
            except BaseException as error:  # noqa: BLE001 (raised again in the caller's thread)
                pieces.put(error)

        thread = threading.Thread(target=work, name="fiddler-generate", daemon=True)
        thread.start()
        ended = False
        try:
            while True:
                piece = pieces.get()
                ended = not isinstance(piece, str)
                if isinstance(piece, BaseException):
                    raise piece
                if piece is None:
                    return
                yield piece
        finally:
            if not ended:  # closed early; a run that was refused must not stop the other one
                self.session.stop()
            thread.join()

    def _checked(self, options: Mapping[str, Any]) -> tuple[int, int]:
        """Beams and returned sequences for each prompt; raises InputError for what cannot be."""
        for name, why in _REFUSED.items():
            if options.get(name):
                raise InputError(f"{name} cannot be passed on to transformers here: {why}")
        configs = (options.get("generation_config"), self.model.generation_config)
        found: list[int] = []
        for name in ("num_beams", "num_return_sequences"):
            values = (options.get(name), *(getattr(config, name, None) for config in configs))
            value = next((value for value in values if value is not None), 1)
            if type(value) is not int or value < 1:
                raise InputError(f"{name}: expected a whole number of at least 1, got {value!r}")
            found.append(value)
        return found[0], found[1]

    def _check_room(self, sequences: int, prompt_tokens: int, new_tokens: int) -> None:
        if type(new_tokens) is not int or new_tokens < 1:
            raise InputError(
                f"max_new_tokens: expected a whole number of at least 1, got {new_tokens!r}"
            )
        positions = getattr(
            self.model.config.get_text_config(), "max_position_embeddings", self.max_tokens
        )
        room = min(self.max_tokens, positions)
        if prompt_tokens + new_tokens > room:
            why = "the model has" if positions < self.max_tokens else "max_tokens reserves"
            raise InputError(
                f"{prompt_tokens} prompt tokens and {new_tokens} new ones need "
                f"{prompt_tokens + new_tokens} positions, {why} {room}: shorten the prompt, ask "
                "for fewer tokens" + ("" if positions < self.max_tokens else ", or load with more")
            )
        if sequences > self.max_sequences:
            raise InputError(
                f"{sequences} sequences (beams count) need KV cache, max_sequences reserves "
                f"{self.max_sequences}: load with max_sequences={sequences}"
            )

    def _how_it_ended(self, tokens: list[list[int]], max_new_tokens: int) -> str:
        longest = max(map(len, tokens))
        return "length" if longest >= max_new_tokens else "eos"

    def _run(
        self,
        prompt: PromptLike,
        recorder: Recorder,
        tokens: list[list[int]],
        ended: str,
        about: Mapping[str, Any],
    ) -> Run:
        meta = {
            "prompt": prompt if isinstance(prompt, str) else "",
            "ended": ended,
            **about,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }
        text = ""
        if self.tokenizer is not None:
            text = self.tokenizer.decode(tokens[0], skip_special_tokens=True)
        return Run(text, tuple(map(tuple, tokens)), recorder.trace(meta), ended)

    def _new_recorder(self, plan: Plan, start: Start) -> Recorder:
        return Recorder(self._spec, plan, start, self.session.device.clock)

    def _last_tokens(self, recorder: Recorder, tokens: list[list[int]]) -> None:
        """Rows for tokens that were sampled but, being the last, never processed."""
        rows = recorder.sampled(tokens)
        recorder.tokens(rows, self._texts(rows[:, -1].tolist()))


def _kept(collector: Collector) -> str:
    count = sum(map(len, collector.tokens))
    return (
        f"{count} tokens had been generated: engine.last_run has their text and the trace of what "
        "ran; the engine is ready for the next prompt"
    )
