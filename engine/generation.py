"""Generation: transformers' own ``generate``, recorded, stoppable, and never lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor

from engine.collector import Collector
from engine.decode_graphs import DecodeGraphs
from engine.errors import FiddlerError, InputError
from engine.events import TOKENS, empty
from engine.hook import following
from engine.lineage import Lineage
from engine.options import options_refused
from engine.plan import Plan
from engine.prompt import PromptLike, is_chat
from engine.recorder import Recorder
from engine.request import Limits, Request
from engine.run import Run
from engine.session import Session, Stopped
from engine.spec import ModelSpec
from engine.streaming import pieces
from engine.strict import check_call, check_flag
from engine.threads import torch_threads
from engine.token_texts import TokenTexts
from engine.trace import Start

_ID = (TOKENS.names or ()).index("id")


class Generator:
    """Runs prompts through a model that is attached to a session, one at a time."""

    def __init__(
        self,
        limits: Limits,
        texts: TokenTexts,
        session: Session,
        spec: ModelSpec,
        *,
        threads: int,
        about: Mapping[str, Any],
        graphs: DecodeGraphs | None = None,
    ) -> None:
        self.limits = limits
        self.model, self.tokenizer = limits.model, limits.tokenizer
        self.session = session
        self.spec = spec
        """The model that is costed."""
        self.threads = threads
        """CPU threads that torch uses in a run."""
        self.about = about
        """What goes into each trace's meta."""
        self.recorder: Recorder | None = None
        """Of the newest recorded run, finished or not."""
        self.last_run: Run | None = None
        self._graphs = graphs
        self._texts = texts
        self._usual_threads = torch.get_num_threads()
        self._thread: threading.Thread | None = None
        """Of a run under way, until :attr:`last_run` is that."""

    def __repr__(self) -> str:
        closed = self.session.closed
        return f"Generator({'closed' if closed else type(self.model).__name__})"

    def close(self) -> None:
        """Stop a run that is under way, wait until it is :attr:`last_run`, and let the model go.

        Raises FiddlerError where the run itself asks for it.
        """
        here = threading.current_thread()
        if self.session.running and self._thread is here:
            raise FiddlerError(
                "an engine cannot be closed from within its own run (on_text): call engine.stop() "
                "there, and engine.close() after generate has returned"
            )
        while self.session.running or (self._thread is not here and self.running):
            self.session.stop()
            time.sleep(0.002)
        try:
            self.session.close()
        finally:
            if self.session.closed:
                for name in ("model", "limits"):
                    vars(self).pop(name, None)

    @property
    def running(self) -> bool:
        """Whether a run is under way, also one that is being made :attr:`last_run`."""
        thread = self._thread
        return self.session.running or (thread is not None and thread.is_alive())

    def costs_as(self, model: ModelSpec, *, named: bool) -> None:
        """Cost another model from the next run on; ``named``: whether traces name it."""
        self.spec = model
        self.about = {**self.about, "as_model": model.name if named else None}

    def torch_threads(self) -> AbstractContextManager[None]:
        """Within it torch uses :attr:`threads`."""
        return torch_threads(self.threads, self._usual_threads)

    def generate(
        self,
        prompt: PromptLike,
        max_new_tokens: int,
        *,
        on_text: Callable[[str], None] | None = None,
        record: bool = True,
        predictions: bool = False,
        **options: Any,
    ) -> Run:
        """See :meth:`engine.hybrid.HybridEngine.generate`."""
        self.session.check_open()
        record, predictions = check_flag("record", record), check_flag("predictions", predictions)
        request = Request.of(prompt, max_new_tokens, options, self.limits)
        check_call("on_text", on_text, "one text, each new piece")
        if on_text is not None:
            request.check_streamed()
        searching = request.beams > 1
        collector = Collector(request.answers, self.tokenizer, on_text)
        options = request.options | (
            {"return_dict_in_generate": True} if searching else {"streamer": collector}
        )
        lineage = request.lineage()
        owner, here = object(), threading.current_thread()
        recorder: Recorder | None = None
        last = empty(TOKENS)
        ended = "error"
        try:
            recorder = self.session.begin_run(
                owner,
                partial(self._new_recorder, lineage),
                record=record,
                predictions=predictions,
            )
            self._thread = here
            if record:
                self.recorder = recorder
            with ExitStack() as around:
                around.enter_context(self.torch_threads())
                # buffers that stay could not be written after a run in inference mode
                around.enter_context(torch.inference_mode(False))
                around.enter_context(self.session.device.computing())
                around.enter_context(_seeded(request.seed, self.model.device))
                if searching and record:
                    around.enter_context(following(self.model, lineage))
                options = options | self._cache_of(request, max_new_tokens)  # no other run has it
                around.enter_context(options_refused(lambda: self.session.begun))
                device = self.model.device
                out = self.model.generate(
                    request.ids.to(device),
                    attention_mask=request.mask.to(device),
                    max_new_tokens=max_new_tokens,
                    **options,
                )
            answers = collector.tokens
            if searching:
                collector.tokens = out.sequences[:, request.ids.shape[1] :].tolist()
                answers, chosen = _without_padding(collector.tokens, out.beam_indices)
                if recorder.token_count:  # else nothing is recorded
                    last = recorder.lineage.answers(recorder.token_rows(), answers, chosen)
            ended = _how_it_ended(answers, max_new_tokens, request.ends)
        except Stopped:
            ended = "stopped"
            collector.end()
        except BaseException as error:
            ended = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
            if recorder is not None and recorder.token_count:
                error.add_note(_kept(collector))
            raise
        finally:
            try:
                self.session.end_run(owner)
                if recorder is not None and (recorder.token_count or ended != "error"):
                    if searching and not any(collector.tokens):  # cut short: the best beams so far
                        collector.tokens = _best_so_far(recorder, request)
                    elif not searching:
                        last = recorder.sampled(collector.tokens)
                    recorder.tokens(last, self._texts(last[:, _ID].tolist()))
                    self.last_run = self._run(prompt, recorder, collector.tokens, ended)
            finally:  # calls nothing, so no interrupt can come between
                if recorder is not None and self._thread is here:
                    self._thread = None
        assert self.last_run is not None
        return self.last_run

    def _cache_of(self, request: Request, new_tokens: int) -> dict[str, Any]:
        """Options for a cache whose steps are recorded; without them transformers makes its own."""
        graphs, limits, tokens = self._graphs, self.limits, request.ids.shape[1]
        if graphs is None:
            return {}
        alike = request.steps_alike(limits)
        found = graphs.options(request.rows, tokens, new_tokens, limits.max_tokens) if alike else {}
        if not found:
            most = limits.max_tokens * limits.max_sequences
            graphs.make_room(request.rows * (tokens + new_tokens), most)
        return found

    def stream(self, prompt: PromptLike, max_new_tokens: int, **options: Any) -> Iterator[str]:
        """See :meth:`engine.hybrid.HybridEngine.stream`."""
        self.session.check_open()
        if options.get("on_text") is not None:
            raise InputError(
                "stream gives its text to whoever loops over it: leave on_text out, or call "
                "engine.generate() with it"
            )
        Request.of(prompt, max_new_tokens, options, self.limits).check_streamed()
        return pieces(
            lambda heard: self.generate(prompt, max_new_tokens, on_text=heard, **options),
            self.session.stop,
        )

    def _run(
        self, prompt: PromptLike, recorder: Recorder, tokens: list[list[int]], ended: str
    ) -> Run:
        meta = {
            "prompt": prompt if isinstance(prompt, str) else "",
            "ended": ended,
            **self.about,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }
        texts: tuple[str, ...] = ()
        if self.tokenizer is not None:
            made = (self.tokenizer.decode(ids, skip_special_tokens=True) for ids in tokens)
            texts = tuple(made)
        text = texts[0] if texts else ""
        messages = _answered(prompt, text) if is_chat(prompt) and texts else ()
        trace = recorder.trace(meta)
        return Run(text, tuple(map(tuple, tokens)), trace, ended, texts, messages)

    def _new_recorder(self, lineage: Lineage, plan: Plan, start: Start) -> Recorder:
        return Recorder(self.spec, plan, start, self.session.device.clock, lineage)


def _without_padding(
    tokens: list[list[int]], beams: Tensor
) -> tuple[list[list[int]], list[list[int]]]:
    """Answers of a beam search as they ended, and for each token the beam that it was chosen from.

    ``beams`` ``(answers, tokens)`` ends in -1s where ``tokens`` end in padding.
    """
    chosen = [[row for row in rows if row >= 0] for rows in beams.tolist()]
    return [row[: len(rows)] for row, rows in zip(tokens, chosen, strict=True)], chosen


def _how_it_ended(answers: list[list[int]], max_new_tokens: int, ends: Collection[int]) -> str:
    """Of a run that transformers ended: see :attr:`engine.run.Run.ended`."""
    if max(map(len, answers)) >= max_new_tokens:
        return "length"
    return "eos" if all(not set(ids).isdisjoint(ends) for ids in answers) else "criterion"


def _best_so_far(recorder: Recorder, request: Request) -> list[list[int]]:
    """The leading beams of each prompt, as far as they were processed; beams are kept in order."""
    rows = recorder.lineage.so_far(recorder.token_rows())
    firsts = range(0, request.rows, request.per_prompt)
    wanted = [first + rank for first in firsts for rank in range(request.returned)]
    return [rows[at] if at < len(rows) else [] for at in wanted]


def _answered(messages: Any, text: str) -> tuple[Mapping[str, Any], ...]:
    """A conversation with the model's answer, or with more of the answer that it ended in."""
    *before, final = messages
    if final["role"] == "assistant":
        return (*before, {**final, "content": final["content"] + text})
    return (*messages, {"role": "assistant", "content": text})


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """transformers samples by torch's global generator: seeded here, and put back afterwards."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([] if device.type == "cpu" else [device]):
        torch.manual_seed(seed)
        yield


def _kept(collector: Collector) -> str:
    count = sum(map(len, collector.tokens))
    return (
        f"{count} tokens had been generated: engine.last_run has their text and the trace of what "
        "ran; the engine is ready for the next prompt"
    )
