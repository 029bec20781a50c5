"""All figures of the model card, computed from a checkpoint and the validation text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from transformers import MixtralForCausalLM, PreTrainedTokenizerFast

from . import evaluation, statistics
from .corpus import WEIGHTS, Domain

BUDGETS = (56, 125)
"""Resident experts of 256: about what 24 and 48 GB hold of Mixtral-8x7B."""

_SEQUENCES = 32


@dataclass(frozen=True)
class Language:
    """What the model has learnt; shares are of 1."""

    bits_per_byte: dict[str, float]
    two_digit_sums: float
    two_digit_sums_never_shown: float
    one_digit_sums: float


@dataclass(frozen=True)
class RoutingFigures:
    """How the model routes; shares are of 1, pairs as the fields' names say."""

    popularity: statistics.Popularity
    load_mean_max: float
    load_mean_min: float
    starved: int
    """Experts that get less than 5% of an even share."""
    information_mean_bits: float
    information_best_bits: float
    max_lift: float
    reuse_one_both: tuple[float, float]
    reuse_shuffled_one_both: tuple[float, float]
    hits_random: tuple[float, ...]
    hits_mixed_profile: tuple[float, ...]
    hits_own_profile: tuple[float, ...]
    lru_layer: tuple[float, float]
    """2 and 4 slots in each layer of 8."""
    lru_global: tuple[float, float]
    """A quarter and a half of all experts, in one cache."""
    next_layer_recall: float
    most_popular_recall: float


def language(
    model: MixtralForCausalLM, tokenizer: PreTrainedTokenizerFast, domains: list[Domain]
) -> Language:
    """Bits a byte over every validation block, and sums by greedy decoding from a bare prompt."""
    shown = evaluation.two_digit_pairs(held_out=False)
    hidden = evaluation.two_digit_pairs(held_out=True)
    shown_right = evaluation.sums_right(model, tokenizer, shown)
    hidden_right = evaluation.sums_right(model, tokenizer, hidden)
    all_right = shown_right * len(shown) + hidden_right * len(hidden)
    return Language(
        {d.name: evaluation.bits_per_byte(model, tokenizer, d.validation) for d in domains},
        all_right / (len(shown) + len(hidden)),
        hidden_right,
        evaluation.sums_right(model, tokenizer, evaluation.one_digit_pairs()),
    )


def routing(
    model: MixtralForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    domains: list[Domain],
    sequences: int = _SEQUENCES,
) -> RoutingFigures:
    """From `sequences` windows of 256 validation tokens of each domain.

    Loads, popularity and information weigh domains as training does. Profiles for residency come
    from the even windows of each domain, and are tried on the odd ones; reuse, hits and recall
    are means over domains, each counting the same.
    """
    experts = model.config.num_local_experts
    recorded = {
        d.name: evaluation.route(model, tokenizer, d.validation, sequences) for d in domains
    }
    choices = {name: r.choices for name, r in recorded.items()}
    loads = {name: statistics.loads(c, experts) for name, c in choices.items()}
    mixed = statistics.mixed_loads(loads, WEIGHTS)
    bits, lift = statistics.mutual_information(loads, WEIGHTS)

    profiles = {name: statistics.loads(c[::2], experts) for name, c in choices.items()}
    profile = statistics.mixed_loads(profiles, WEIGHTS)
    tried = {name: c[1::2] for name, c in choices.items()}
    everything = np.concatenate(list(choices.values()))  # (S, T, L, K)
    size = mixed.size

    def hits(own: bool) -> tuple[float, ...]:
        pick = profiles if own else dict.fromkeys(profiles, profile)
        return tuple(
            float(np.mean([statistics.resident_hits(c, pick[n], count) for n, c in tried.items()]))
            for count in BUDGETS
        )

    return RoutingFigures(
        popularity=statistics.popularity(mixed),
        load_mean_max=float((mixed.max(1) * experts).mean()),
        load_mean_min=float((mixed.min(1) * experts).mean()),
        starved=int((mixed * experts < 0.05).sum()),
        information_mean_bits=float(bits.mean()),
        information_best_bits=float(bits.max()),
        max_lift=lift,
        reuse_one_both=statistics.reuse(everything),
        reuse_shuffled_one_both=statistics.reuse(statistics.shuffled(everything)),
        hits_random=tuple(count / size for count in BUDGETS),
        hits_mixed_profile=hits(own=False),
        hits_own_profile=hits(own=True),
        lru_layer=(
            statistics.lru_hits(everything, experts, 2, per_layer=True),
            statistics.lru_hits(everything, experts, 4, per_layer=True),
        ),
        lru_global=(
            statistics.lru_hits(everything, experts, size // 4, per_layer=False),
            statistics.lru_hits(everything, experts, size // 2, per_layer=False),
        ),
        next_layer_recall=statistics.recall(
            np.concatenate([r.guesses for r in recorded.values()]), everything[:, :, 1:]
        ),
        most_popular_recall=statistics.most_popular_recall(everything, mixed),
    )
