"""The engine as a user holds it: load, generate, replan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from engine.devices import open_device, usual_device
from engine.errors import InputError
from engine.generation import Generator
from engine.hook import attach
from engine.loader import load_model, load_tokenizer, model_spec
from engine.placement import change_plan, make_plan
from engine.plan import Plan
from engine.planners import check_planner
from engine.policies import LIVE, Policy, resolve_policy
from engine.popularity import measure_profile
from engine.profile import Profile
from engine.prompt import PromptLike, TokenTexts
from engine.recorder import Recorder
from engine.residency import Residency
from engine.run import Run
from engine.session import Session
from engine.spec import HardwareSpec, ModelSpec, resolve_hardware, resolve_model
from engine.store import ExpertStore
from engine.threads import check_threads, choose_threads, torch_threads
from engine.units import parse_bytes, parse_percent

DEFAULT_HARDWARE = "rtx-4090"
DEFAULT_POLICY = "fiddler"


class HybridEngine:
    """A transformers MoE model whose experts run by plan and policy. Made by :meth:`load`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any | None,
        *,
        name: str,
        gpu_memory: int | str | None,
        hardware: str | Path | HardwareSpec,
        as_model: str | ModelSpec | None,
        policy: str | type[Policy],
        cache_slots: int | None,
        planner: str | None,
        device: str,
        max_tokens: int,
        max_sequences: int,
        threads: int | None,
        profile: Profile | None,
    ) -> None:
        self.model = model
        """The transformers model itself, hybrid underneath."""
        self.tokenizer = tokenizer
        self.hardware = resolve_hardware(hardware)
        store = ExpertStore(model)
        self.device = open_device(device, store)
        if as_model is not None and not self.device.offloads:
            raise InputError(
                f"as_model={as_model!r} costs modelled time, the {self.device.name} device "
                "measures what really runs: leave as_model out, or load with device='virtual'"
            )
        self.real_spec = model_spec(model, store, name)
        self.model_spec = _costed(self.real_spec, as_model)
        """The model whose bytes and flops are costed: ``as_model``, or the loaded one."""
        self.max_tokens, self.max_sequences = max_tokens, max_sequences
        self._as_model = self.model_spec.name if as_model is not None else None
        sizes: dict[str, Any] = {"max_tokens": max_tokens, "max_sequences": max_sequences}
        unknown = Profile.uniform(self.model_spec.grid)
        empty = make_plan(
            self.model_spec, self.hardware, unknown, gpu_memory="0%", policy="cpu", **sizes
        )
        self.session = Session(store, self.device, empty)
        usual = torch.get_num_threads()
        self.threads = choose_threads(threads, store.expert_bytes)
        """CPU threads that torch uses while this engine generates."""
        texts = TokenTexts(tokenizer)
        self._hooks = attach(model, self.session, texts)
        self._generator = Generator(
            model,
            tokenizer,
            texts,
            self.session,
            self.model_spec,
            vocabulary=self.real_spec.vocabulary,
            threads=self.threads,
            usual_threads=usual,
            **sizes,
        )
        with torch_threads(self.threads, usual):
            self.profile = profile or measure_profile(
                model, tokenizer, self.session, self.model_spec, self.real_spec.vocabulary
            )
        if not self.device.offloads:
            gpu_memory, policy, planner, cache_slots = "0%", "cpu", None, None
        self._check_policy(policy)
        plan = make_plan(
            self.model_spec,
            self.hardware,
            self.profile,
            gpu_memory=gpu_memory,
            cache_slots=cache_slots,
            policy=policy,
            planner=planner,
            **sizes,
        )
        self.session.replan(plan)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        gpu_memory: int | str | None = None,
        hardware: str | Path | HardwareSpec = DEFAULT_HARDWARE,
        as_model: str | ModelSpec | None = None,
        policy: str | type[Policy] = DEFAULT_POLICY,
        cache_slots: int | None = None,
        planner: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        max_tokens: int = 4096,
        max_sequences: int = 1,
        threads: int | None = None,
        profile: Profile | str | Path | None = None,
        name: str | None = None,
    ) -> HybridEngine:
        """Open a checkpoint as a hybrid engine.

        Args:
            path: folder or hub id of a Mixture-of-Experts checkpoint (safetensors).
            gpu_memory: device memory budget; None: the hardware's memory. A profile of a machine
                without a GPU has none: give one for a what-if.
            hardware: profile whose latencies decisions are made by.
            as_model: cost another model's bytes and flops on this one's routing (same grid).
            policy: name in :data:`engine.policies.POLICIES`, or a policy class of your own.
            cache_slots: experts' worth of budget for a cache; None: the policy's default.
            planner: name in :data:`engine.planners.PLANNERS`; None: the policy's own.
            dtype: ``auto`` (the checkpoint's), ``float32``, ``bfloat16`` or ``float16``.
            device: ``virtual`` (modelled clock), ``host`` (all on the CPU, measured: budget, policy
                and cache do not apply), or ``auto``: ``host`` where ``hardware`` has no GPU and
                nothing that takes one is asked for, else ``virtual``.
            max_tokens: KV cache positions reserved for each sequence.
            max_sequences: sequences (beams count) the KV cache is reserved for.
            threads: CPU threads while generating; None: torch's own number, or 1 where experts are
                too small to share.
            profile: experts' popularity, or a file of it; None: measured on the calibration text.
            name: what to call the model; None: the folder's name.

        Raises:
            CheckpointError, UnsupportedModelError: what is wrong with the checkpoint.
            BudgetError, InputError: what is wrong with an argument.
        """
        if not isinstance(path, str | Path):
            raise InputError(
                "load: expected 'demo', a checkpoint's folder or a hub id (owner/name), got "
                f"{type(path).__name__}"
            )
        resolve_policy(policy)  # names and sizes are checked before gigabytes are read
        check_planner(planner)
        machine = resolve_hardware(hardware)
        asked = (gpu_memory, cache_slots, planner, as_model)
        planned = policy != DEFAULT_POLICY or any(each is not None for each in asked)
        device = usual_device(device, machine, planned=planned)
        if device != "host":
            machine.check_budget(gpu_memory)
        if gpu_memory is not None and parse_percent(gpu_memory) is None:
            parse_bytes(gpu_memory)
        if as_model is not None:
            resolve_model(as_model)
        check_threads(threads)
        if profile is not None and not isinstance(profile, Profile):
            profile = Profile.load(profile)
        return cls(
            load_model(path, dtype),
            load_tokenizer(path),
            name=name or Path(path).name,
            gpu_memory=gpu_memory,
            hardware=hardware,
            as_model=as_model,
            policy=policy,
            cache_slots=cache_slots,
            planner=planner,
            device=device,
            max_tokens=max_tokens,
            max_sequences=max_sequences,
            threads=threads,
            profile=profile,
        )

    def __repr__(self) -> str:
        costed = f" as {self._as_model}" if self._as_model else ""
        return f"HybridEngine({self.real_spec.name}{costed} on {self.device.name}, {self.plan!r})"

    @property
    def plan(self) -> Plan:
        """The plan in force, or the one that waits for the next step."""
        return self.session.plan

    @property
    def residency(self) -> Residency:
        """The byte ledger of the device."""
        return self.session.orchestrator.residency

    @property
    def policy(self) -> str:
        """Name of the policy in force."""
        return self.plan.policy

    @property
    def running(self) -> bool:
        """Whether a generation is under way."""
        return self.session.running

    @property
    def recorder(self) -> Recorder | None:
        """Of the newest recorded run, which viewers read while it grows; None before the first."""
        return self._generator.recorder

    @property
    def last_run(self) -> Run | None:
        """The latest generation, also one that was stopped, interrupted or failed."""
        return self._generator.last_run

    def stop(self) -> None:
        """Stop the running generation at its next layer, from any thread; its run is kept."""
        self.session.stop()

    def replan(
        self,
        *,
        gpu_memory: int | str | None = None,
        cache_slots: int | None = None,
        policy: str | type[Policy] | None = None,
        planner: str | None = None,
        hardware: str | Path | HardwareSpec | None = None,
    ) -> Plan:
        """Change the plan, from any thread; what is not named stays as it is.

        Takes effect at the next step of a running generation (and is recorded there), at once
        when nothing runs. Raises BudgetError or InputError and changes nothing when it cannot be.
        """
        if not self.device.offloads:
            raise InputError(
                f"the {self.device.name} device has no device memory to plan: load the model with "
                "device='virtual', or replay a trace under another plan"
            )
        spec = None if hardware is None else resolve_hardware(hardware)
        self._check_policy(policy)
        check_planner(planner)
        plan = change_plan(
            self.plan,
            model=self.model_spec,
            gpu_memory=gpu_memory,
            cache_slots=cache_slots,
            policy=policy,
            planner=planner,
            hardware=spec,
        )
        self.session.replan(plan)
        self.hardware = spec or self.hardware
        return plan

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
            FiddlerError: the engine is generating already.
        """
        if predictions:
            self._check_foresight("predictions=True")
        return self._generator.generate(
            prompt,
            max_new_tokens,
            self._about(),
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
        return self._generator.stream(prompt, max_new_tokens, self._about(), **options)

    def _check_policy(self, name: str | type[Policy] | None) -> None:
        """Raise InputError for a policy that cannot run here."""
        policy = None if name is None else resolve_policy(name)
        if policy is not None and not policy.live:
            raise InputError(
                f"policy {policy.name!r} needs to know the whole run: use it in a replay, for an "
                f"engine choose one of {', '.join(LIVE)}"
            )
        if policy is not None and policy.wants_predictions:
            self._check_foresight(f"policy {policy.name!r}")

    def _check_foresight(self, what: str) -> None:
        if not self.session.foresight:
            raise InputError(
                f"{what}: no layer of {self.real_spec.name} can be foreseen from the one before "
                f"it: {self.session.foresight.why_not}"
            )

    def _about(self) -> dict[str, Any]:
        return {
            "device": self.device.name,
            "as_model": self._as_model,
            "loaded": self.real_spec.name,
        }


def _costed(real: ModelSpec, as_model: str | ModelSpec | None) -> ModelSpec:
    if as_model is None:
        return real
    spec = resolve_model(as_model)
    if (spec.grid, spec.top_k) != (real.grid, real.top_k):
        raise InputError(
            f"as_model={spec.name!r} has {spec.layers} layers x {spec.experts} experts, top-"
            f"{spec.top_k}; {real.name} has {real.layers} x {real.experts}, top-{real.top_k}: only "
            "a model with the same grid can be costed on its routing"
        )
    return spec
