"""The engine as a user holds it: load, generate, replan."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Self

from engine.devices import CudaDevice, Device, check_device, usual_device
from engine.errors import InputError
from engine.generation import Generator
from engine.loader import load_model, load_tokenizer
from engine.opening import Opened, Sizes, Wish, check_effect
from engine.planned import Planned
from engine.planners import check_planner
from engine.policies import Policy, resolve_policy
from engine.popularity import measure_profile
from engine.profile import Profile
from engine.prompt import PromptLike
from engine.quantization import Quantization
from engine.recorder import Recorder
from engine.request import Limits
from engine.run import Run
from engine.schemes import scheme_named
from engine.spec import HardwareSpec, ModelSpec, resolve_hardware, resolve_model
from engine.strict import check_flag, check_text
from engine.threads import check_threads, choose_threads
from engine.token_texts import TokenTexts
from engine.units import parse_bytes, parse_percent


class HybridEngine(Planned):
    """A transformers MoE model whose experts run by plan and policy. Made by :meth:`load`."""

    def __init__(
        self,
        generator: Generator,
        real_spec: ModelSpec,
        hardware: HardwareSpec,
        profile: Profile,
        quantization: Quantization | None = None,
    ) -> None:
        super().__init__(generator.session, generator.spec, real_spec, hardware)
        self.tokenizer = generator.tokenizer
        self.max_tokens = generator.limits.max_tokens
        self.max_sequences = generator.limits.max_sequences
        self.threads = generator.threads
        """CPU threads that torch uses while this engine generates."""
        self.profile = profile
        self.quantization = quantization
        """What quantising the experts saved and cost; None where they are as in the checkpoint."""
        self._generator = generator

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        gpu_memory: int | str | None = None,
        hardware: str | Path | HardwareSpec | None = None,
        as_model: str | ModelSpec | None = None,
        policy: str | type[Policy] | None = None,
        cache_slots: int | None = None,
        planner: str | None = None,
        dtype: str = "auto",
        quantize: str | None = None,
        device: str = "auto",
        max_tokens: int = 4096,
        max_sequences: int = 1,
        threads: int | None = None,
        profile: Profile | str | Path | None = None,
        name: str | None = None,
        reserve_bytes: int | None = None,
        cuda_graphs: bool | None = None,
    ) -> HybridEngine:
        """Open a checkpoint as a hybrid engine.

        Args:
            path: folder or hub id of a Mixture-of-Experts checkpoint (safetensors).
            gpu_memory: device memory budget; None: the hardware's memory. A profile of a machine
                without a GPU has none: give one for a what-if.
            hardware: profile whose latencies decisions are made by; None: an RTX 4090's, or on a
                real GPU that of the card until it is calibrated.
            as_model: cost another model's bytes and flops on this one's routing (same grid).
            policy: name in :data:`engine.policies.POLICIES`, or a policy class of your own; None:
                ``fiddler``.
            cache_slots: experts' worth of budget for a cache; None: the policy's default.
            planner: name in :data:`engine.planners.PLANNERS`; None: the policy's own.
            dtype: ``auto`` (the checkpoint's), ``float32``, ``bfloat16`` or ``float16``.
            quantize: ``int8`` or ``int4`` quantises the experts' weights while loading (groups of
                128, or of 64 or 32 where rows are not multiples); None: they stay as they are.
                With ``as_model`` the other model's experts count as quantised too.
            device: ``virtual`` (modelled clock), ``host`` (all on the CPU, measured: there is no
                memory to plan, so what plans it is refused), ``cuda`` (a GPU, measured; ``cuda:1``
                the second of several), or ``auto``: ``cuda`` where there is one and neither
                ``as_model`` nor another machine's ``hardware`` is given; ``host`` where
                ``hardware`` has no GPU and nothing that takes one is asked for; else ``virtual``.
            max_tokens: KV cache positions reserved for each sequence.
            max_sequences: sequences (beams count) the KV cache is reserved for.
            threads: CPU threads while generating; None: torch's own number, or 1 where experts are
                too small to share.
            profile: experts' popularity, or a file of it; None: measured on the calibration text.
            name: what to call the model; None: the folder's name.
            reserve_bytes: of a GPU's budget, what torch's libraries, fragmentation and calls of
                experts may take; None: measured with a prompt of ``max_tokens``.

        Raises:
            DeviceError: there is no such device here.
            CheckpointError, UnsupportedModelError: what is wrong with the checkpoint.
            BudgetError: too small a budget, or a model that host memory cannot hold.
            InputError: what is wrong with an argument, also one that can have no effect on this
                device.
        """
        if not isinstance(path, str | Path):
            raise InputError(
                "load: expected 'demo', a checkpoint's folder or a hub id (owner/name), got "
                f"{type(path).__name__}"
            )
        if name is not None:
            check_text("load, name", name)
        if policy is not None:  # names and sizes are checked before gigabytes are read
            resolve_policy(policy)
        check_planner(planner)
        if cuda_graphs is not None:
            cuda_graphs = check_flag("cuda_graphs", cuda_graphs)
        scheme, sizes = scheme_named(quantize), Sizes.of(max_tokens, max_sequences, reserve_bytes)
        wish = Wish(gpu_memory, cache_slots, policy, planner)
        machine = None if hardware is None else resolve_hardware(hardware)
        planned = any(each is not None for each in (*vars(wish).values(), as_model))
        device = usual_device(device, machine, planned=planned, costed=as_model is not None)
        if device != "host" and machine is not None:
            machine.check_budget(gpu_memory)
        if gpu_memory is not None and parse_percent(gpu_memory) is None:
            parse_bytes(gpu_memory)
        if as_model is not None:
            resolve_model(as_model)
        threads = check_threads(threads)
        check_device(device)
        check_effect(device, wish, sizes, as_model, cuda_graphs)
        if profile is not None and not isinstance(profile, Profile):
            profile = Profile.load(profile)

        model, tokenizer = load_model(path, dtype), load_tokenizer(path)
        opened = Opened.of(
            model,
            name or Path(path).name,
            device,
            machine,
            sizes,
            scheme=scheme,
            as_model=as_model,
            cuda_graphs=cuda_graphs,
        )
        return cls._of(opened, tokenizer, wish, profile, threads)

    @classmethod
    def wrap(
        cls,
        model: Any,
        tokenizer: Any | None = None,
        *,
        device: Device | str = "virtual",
        hardware: str | Path | HardwareSpec | None = None,
        profile: Profile | None = None,
        name: str = "model",
        max_tokens: int = 4096,
        max_sequences: int = 1,
        threads: int | None = None,
        gpu_memory: int | str | None = None,
        cache_slots: int | None = None,
        policy: str | type[Policy] | None = None,
        planner: str | None = None,
        reserve_bytes: int | None = None,
        cuda_graphs: bool | None = None,
    ) -> HybridEngine:
        """An engine of a model that is in host memory already: see :meth:`load`.

        ``model`` has to be set to our experts (:data:`engine.hook.IMPLEMENTATION`), in evaluation
        and without gradients. ``device`` may be one that is open already.
        """
        check_text("wrap, name", name)
        threads = check_threads(threads)
        wish = Wish(gpu_memory, cache_slots, policy, planner)
        sizes = Sizes.of(max_tokens, max_sequences, reserve_bytes)
        if cuda_graphs is not None:
            cuda_graphs = check_flag("cuda_graphs", cuda_graphs)
        on = device if isinstance(device, str) else device.name
        check_effect(on, wish, sizes, cuda_graphs=cuda_graphs)
        machine = None if hardware is None else resolve_hardware(hardware)
        opened = Opened.of(model, name, device, machine, sizes, cuda_graphs=cuda_graphs)
        return cls._of(opened, tokenizer, wish, profile, threads)

    @classmethod
    def _of(
        cls,
        opened: Opened,
        tokenizer: Any | None,
        wish: Wish,
        profile: Profile | None,
        threads: int | None,
    ) -> HybridEngine:
        model, real, spec, sizes = opened.model, opened.real, opened.spec, opened.sizes
        texts = TokenTexts(tokenizer)
        count = choose_threads(threads, opened.store.expert_bytes)
        session = opened.session(count, texts)
        with ExitStack() as refused:
            refused.callback(session.close)
            generator = Generator(
                Limits(model, tokenizer, real.vocabulary, sizes.max_tokens, sizes.max_sequences),
                texts,
                session,
                spec,
                threads=count,
                about=opened.about,
                graphs=opened.graphs,
            )
            if profile is None:
                with generator.torch_threads():
                    profile = measure_profile(model, tokenizer, session, spec, real.vocabulary)
            engine = cls(generator, real, opened.machine, profile, opened.quantization)
            if opened.device.offloads:
                engine._check_policy(wish.policy)
            session.replan(opened.plan(profile, wish))
            refused.pop_all()
        return engine

    def __repr__(self) -> str:
        as_model = self._generator.about["as_model"]
        costed = f" as {as_model}" if as_model else ""
        closed = "closed, " if self.closed else ""
        what = f"{closed}{self.real_spec.name}{costed} on {self.device.name}"
        return f"HybridEngine({what}, {self.plan!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the model's memory, pinned and device memory, and threads.

        A run that is under way is stopped first. Afterwards the engine generates and replans no
        more; what it recorded (:attr:`last_run`, :attr:`recorder`, :attr:`plan`) stays. Who keeps
        :attr:`model` keeps its memory. Again does nothing; ``with fv.load(...) as engine:`` does
        it at the end. Raises FiddlerError from within the run itself (``on_text``).
        """
        if self.closed:
            return
        self._generator.close()
        gc.collect()  # modules and hooks refer to each other; now, not when somebody gets to it
        if isinstance(self.device, CudaDevice):
            self.device.runtime.release()  # the dense part's memory, too

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self.session.closed

    @property
    def model(self) -> Any:
        """The transformers model itself, hybrid underneath. FiddlerError once it is closed."""
        self.session.check_open()
        return self._generator.model

    def _costs_as(self, model: ModelSpec) -> None:
        super()._costs_as(model)
        self._generator.costs_as(model, named=model != self.real_spec)

    @property
    def running(self) -> bool:
        """Whether a generation is under way: until it is :attr:`last_run`."""
        return self._generator.running

    @property
    def recorder(self) -> Recorder | None:
        """Of the newest recorded run, which viewers read while it grows; None before the first."""
        return self._generator.recorder

    @property
    def last_run(self) -> Run | None:
        """The latest generation, also one that was stopped, interrupted or failed."""
        return self._generator.last_run

    def torch_threads(self) -> AbstractContextManager[None]:
        """Within it torch uses :attr:`threads` CPU threads."""
        return self._generator.torch_threads()

    def stop(self) -> None:
        """Stop the running generation at its next layer, from any thread; its run is kept."""
        self.session.stop()

    def generate(
        self,
        prompt: PromptLike,
        max_new_tokens: int = 64,
        *,
        on_text: Callable[[str], None] | None = None,
        record: bool = True,
        predictions: bool = False,
        seed: int | None = None,
        prefill_chunk_tokens: int | None = None,
        **options: Any,
    ) -> Run:
        """Generate with transformers' own ``generate`` and return text, tokens and trace.

        Args:
            prompt: text, token ids, several of either (a batch), or chat messages, which the
                tokenizer's chat template turns into text; ``[*run.messages, more]`` goes on.
            max_new_tokens: at most so many tokens for each sequence.
            on_text: called with each piece of text as it is generated (single sequences).
            record: False runs without a trace (the run's trace is empty then).
            predictions: record what each layer's router would choose one layer early, so that the
                trace can be replayed under policies that fetch ahead.
            seed: makes sampling repeatable: the same tokens as after ``torch.manual_seed(seed)``,
                whose state is put back afterwards. torch has one such generator for a process, so
                two engines that sample at the same time disturb each other.
            prefill_chunk_tokens: process the prompt in steps of at most so many tokens; refused for
                the few model types whose output that would change.
            options: passed on to transformers (``num_beams``, ``do_sample``, ``temperature``,
                ``top_p``, ``num_return_sequences``...).

        A stopped run is returned like any other. After an interrupt or an error the exception
        goes on to the caller, ``last_run`` keeps what ran, and the engine is ready again.

        Raises:
            InputError: an empty prompt, more tokens or sequences than were reserved, or options
                that cannot be recorded or streamed.
            FiddlerError: the engine is generating already, or closed.
        """
        if check_flag("predictions", predictions):
            self.session.check_open()
            self._check_foresight("predictions=True")
        return self._generator.generate(
            prompt,
            max_new_tokens,
            on_text=on_text,
            record=record,
            predictions=predictions,
            seed=seed,
            prefill_chunk_tokens=prefill_chunk_tokens,
            **options,
        )

    def stream(self, prompt: PromptLike, max_new_tokens: int = 64, **options: Any) -> Iterator[str]:
        """:meth:`generate` as a generator of text; closing it early stops the run.

        The pieces make up the run's text, which ``last_run`` has afterwards. One sequence, no
        beams: raises InputError for others, at once.
        """
        return self._generator.stream(prompt, max_new_tokens, **options)
