"""Every way to generate, under every policy: what transformers computes, and replays that agree."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, StoppingCriteria

import fiddler_viz as fv
from engine.bounds import bound
from engine.budgets import budget_curve
from engine.errors import InputError
from engine.events import StepKind
from engine.hybrid import HybridEngine
from engine.policies import POLICIES
from engine.profile import Profile
from engine.replay import replay, run_plans
from engine.run import Run
from fiddler_viz import demo, frames
from fiddler_viz.views.live_state import LiveState

TEXTS = ["ROMEO:\nBut soft, what light", "def main(", "En el principio"]
LONG = " ".join(TEXTS) * 13
CHAT = [{"role": "user", "content": "Who is Juliet?"}]
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
LIVE = [name for name, policy in POLICIES.items() if getattr(policy, "live", True)]
SHARES = (0.0, 0.1, 0.5)
"""Of the room for experts, cache slots: none, too few for one token, half."""


@dataclass(frozen=True)
class Scenario:
    """One way to generate."""

    prompt: Any
    new_tokens: int
    options: dict[str, Any]
    """For transformers and the engine."""
    ours: dict[str, Any] = field(default_factory=dict[str, Any])
    """For the engine alone."""

    def exact(self, model: PreTrainedModel, tokenizer: Any) -> list[list[int]]:
        """Tokens of transformers' own experts, without the prompt."""
        if isinstance(self.prompt[0], dict):
            made = tokenizer.apply_chat_template(
                self.prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        else:
            made = tokenizer(self.prompt, return_tensors="pt", padding=True, padding_side="left")
        torch.manual_seed(self.ours.get("seed", 0))
        ids, mask = made["input_ids"], made["attention_mask"]
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=self.new_tokens, **self.options
        )
        return out[:, ids.shape[1] :].tolist()

    def run(self, engine: HybridEngine) -> Run:
        return engine.generate(self.prompt, self.new_tokens, **self.options, **self.ours)


GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "temperature": 1.2, "top_p": 0.9}
ENDS = {"eos_token_id": [0, 12, 199, 1127]}  # so that texts end, each at another step
SCENARIOS = {
    "single": Scenario(TEXTS[0], 8, GREEDY),
    "batch": Scenario(TEXTS, 8, GREEDY | ENDS),
    "chunks": Scenario(LONG, 4, GREEDY, {"prefill_chunk_tokens": 64}),
    "chunked-batch": Scenario(TEXTS, 4, GREEDY, {"prefill_chunk_tokens": 3}),
    "beams": Scenario(TEXTS[:2], 8, GREEDY | ENDS | {"num_beams": 4, "num_return_sequences": 2}),
    "sampling": Scenario(TEXTS[:2], 6, SAMPLED | {"num_return_sequences": 3}, {"seed": 7}),
    "chat": Scenario(CHAT, 6, GREEDY),
}


@pytest.fixture(scope="module")
def wide() -> HybridEngine:
    """The demo model with room for eight sequences and a chat template."""
    engine = fv.load("demo", as_model=demo.COSTED_AS, gpu_memory="40GB", max_sequences=8)
    engine.tokenizer.chat_template = TEMPLATE
    return engine


@pytest.fixture(scope="module")
def plain() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        demo.model_folder(), dtype=torch.float32, experts_implementation="eager"
    ).eval()


def assert_replays(run: Run) -> None:
    """0 differences, and the same hit rate."""
    trace = run.trace.check()
    again = replay(trace).trace
    for name in ("step_rows", "token_rows", "work_rows", "move_rows"):
        np.testing.assert_array_equal(getattr(again, name), getattr(trace, name), err_msg=name)
    np.testing.assert_equal(again.summary.to_dict(), trace.summary.to_dict())  # nan equals nan


@pytest.fixture(scope="module", params=SCENARIOS)
def expected(
    request: pytest.FixtureRequest, wide: HybridEngine, plain: PreTrainedModel
) -> tuple[Scenario, list[list[int]]]:
    scenario = SCENARIOS[request.param]
    return scenario, scenario.exact(plain, wide.tokenizer)


@pytest.mark.parametrize("policy", LIVE)
def test_outputs_and_replays(
    expected: tuple[Scenario, list[list[int]]], wide: HybridEngine, policy: str
) -> None:
    scenario, tokens = expected
    wide.replan(policy=policy, cache_slots=0)
    for share in SHARES if POLICIES[policy].admits else (0.0,):
        wide.replan(cache_slots=round(share * wide.plan.room))
        run = scenario.run(wide)
        assert [list(row) for row in run.tokens] == tokens, share
        assert_replays(run)
        assert_bound_compares(run)


def assert_bound_compares(run: Run) -> None:
    """Bound and speed count the same tokens: neither padding nor beams that lost."""
    found, speed = bound(run.trace), run.trace.summary.tokens_per_s
    assert speed == pytest.approx(found.decode_achieved * found.tokens_per_s)
    assert found.decode_achieved <= 1


def test_budgets_hold_speeds_and_bounds_that_compare(wide: HybridEngine) -> None:
    for name in ("beams", "batch"):
        run = SCENARIOS[name].run(wide)
        curve = budget_curve(run.trace, ["fiddler"], ["100%"])
        what_if = replay(run.trace, gpu_memory="100%", policy="fiddler").trace
        share = curve.points[0].tokens_per_s / curve.points[0].bound_tokens_per_s
        assert share == pytest.approx(bound(what_if).decode_achieved)


def test_other_cache_sizes_by_replay(wide: HybridEngine) -> None:
    """What a replay says of another size is what the engine then does."""
    for policy in LIVE:
        if not POLICIES[policy].admits:
            continue
        wide.replan(policy=policy, cache_slots=0)
        first = SCENARIOS["batch"].run(wide).trace
        for share in SHARES:
            wide.replan(cache_slots=round(share * wide.plan.room))
            there = SCENARIOS["batch"].run(wide).trace
            what_if = run_plans(first, there.plan_list, there.start)
            for name in ("work_rows", "move_rows"):
                ours, theirs = getattr(what_if, name), getattr(there, name)
                np.testing.assert_array_equal(ours, theirs, err_msg=f"{policy} {share} {name}")
            assert what_if.summary.hit_rate == there.summary.hit_rate


# ---------------------------------------------------------------------- what the trace knows


def ids_of(engine: HybridEngine, text: str) -> list[int]:
    return engine.tokenizer(text)["input_ids"]


def real(tokens: tuple[int, ...], ends: Any = tuple(ENDS["eos_token_id"])) -> list[int]:
    """Up to the end, without the padding after it."""
    found = [at for at, token in enumerate(tokens) if token in ends]
    return list(tokens[: found[0] + 1] if found else tokens)


@pytest.mark.parametrize("name", ["single", "batch", "chunked-batch", "beams", "sampling"])
def test_texts_are_read_back_from_the_tokens_table(wide: HybridEngine, name: str) -> None:
    """From the last token of each answer back through its parents: prompt and answer."""
    scenario = SCENARIOS[name]
    run = scenario.run(wide)
    table, trace = run.trace.tokens, run.trace
    prompts = [scenario.prompt] if isinstance(scenario.prompt, str) else scenario.prompt
    answers = len(run.tokens) // len(prompts)
    ends = scenario.options.get("eos_token_id", (0,))
    last = np.flatnonzero(table["step"] == -1)
    assert len(last) == len(run.tokens)
    for number, (row, tokens) in enumerate(zip(last.tolist(), run.tokens, strict=True)):
        sequence, beam = divmod(number, answers)
        assert (table["sequence"][row], table["beam"][row]) == (sequence, beam)
        rows = trace.path(row)
        prompt = ids_of(wide, prompts[sequence])
        assert table["id"][rows].tolist() == prompt + real(tokens, ends)
        assert table["position"][rows].tolist() == list(range(len(rows)))
        assert set(table["sequence"][rows].tolist()) == {sequence}
        assert (np.diff(table["step"][rows[:-1]]) >= 0).all()
        text = "".join(trace.texts[row] for row in rows[len(prompt) :])
        assert "\ufffd" in text or run.texts[number] == text.replace("<|endoftext|>", "")
    lengths = [len(real(tokens, ends)) for tokens in run.tokens]
    if name == "beams":
        lengths = lengths[::answers]
    assert trace.summary.generated_tokens == sum(lengths) - len(lengths)
    assert trace.summary.prompt_tokens == sum(len(ids_of(wide, text)) for text in prompts)


def test_beams_change_places(wide: HybridEngine) -> None:
    """Each token follows one that the step before processed, not always that of its own row."""
    run = SCENARIOS["beams"].run(wide)
    table = run.trace.tokens
    decoded = np.flatnonzero(table["step"] >= 1)
    parent = table["parent"][decoded]
    assert (table["step"][parent] == table["step"][decoded] - 1).all()
    assert (table["beam"][parent] != table["beam"][decoded]).any()
    assert table["beam"].max() == 3
    assert "_reorder_cache" not in vars(wide.model)


def test_padding_is_nobodys_popularity(wide: HybridEngine) -> None:
    """A batch of texts counts what the texts one by one do, also while it runs and in the page."""
    texts = ["To be, or not to be, that is the question", "I", "We few"]
    live = LiveState(wide)
    live.skip(running=False)
    batch = wide.generate(texts, 3, **GREEDY | {"eos_token_id": None}).trace
    live.pull()
    alone = [wide.generate(text, 3, **GREEDY | {"eos_token_id": None}).trace for text in texts]
    counts = sum(Profile.from_trace(trace).array for trace in alone)
    profile = Profile.from_trace(batch)
    np.testing.assert_array_equal(profile.array, counts)
    assert profile.tokens == sum(Profile.from_trace(trace).tokens for trace in alone)
    assert profile.sample is not None and profile.sample.tokens == profile.tokens
    np.testing.assert_array_equal(frames.grid(batch).tokens, counts)
    np.testing.assert_array_equal(live.routed, counts)
    page = fv.to_html(batch)
    assert f'"popularity":{json.dumps(counts.ravel().tolist())}'.replace(" ", "") in page
    assert fv.heldout(batch).tokens == profile.tokens < len(batch.token_rows)


def test_what_follows_an_end_is_padding(wide: HybridEngine) -> None:
    run = SCENARIOS["batch"].run(wide)
    table = run.trace.tokens
    lengths = [len(real(tokens)) for tokens in run.tokens]
    assert len(set(lengths)) > 1, "they end at different steps"
    for sequence, length in enumerate(lengths):
        mine = (table["sequence"] == sequence) & (table["step"] >= 1)
        assert (table["position"][mine] >= 0).tolist() == [
            at < length - 1 for at in range(max(lengths) - 1)
        ]
    assert (table["parent"][table["position"] < 0] == -1).all()


class AfterTwo(StoppingCriteria):
    """Ends the first text after two tokens."""

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        many = torch.full((len(input_ids),), input_ids.shape[1] - self.prompt_tokens)
        return (many >= 2) & (torch.arange(len(input_ids)) == 0)


def test_texts_that_something_else_ends(wide: HybridEngine) -> None:
    run = wide.generate(
        ["a b", "c d"], 6, do_sample=False, pad_token_id=5, stopping_criteria=[AfterTwo(2)]
    )
    assert run.tokens[0][2:] == (5, 5, 5, 5) and run.ended == "length"
    table = run.trace.tokens
    first = (table["sequence"] == 0) & (table["position"] >= 0)
    assert table["id"][first].tolist() == ids_of(wide, "a b") + list(run.tokens[0][:2])
    assert_replays(run)


# ---------------------------------------------------------------------- long prompts


def test_stop_strings_need_no_tokenizer_of_the_caller_s(
    wide: HybridEngine, plain: PreTrainedModel
) -> None:
    prompts, options = [TEXTS[0], "def"], {"do_sample": False, "stop_strings": ["a", "e"]}
    given = wide.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    exact = plain.generate(**given, max_new_tokens=16, tokenizer=wide.tokenizer, **options)
    new = exact[:, given["input_ids"].shape[1] :].tolist()
    run = wide.generate(prompts, 16, **options)
    assert [list(row) for row in run.tokens] == new and len(new[0]) < 16, "both end"
    assert run.ended == "criterion"
    assert wide.generate(prompts, 16, tokenizer=wide.tokenizer, **options).tokens == run.tokens
    assert_replays(run)
    assert_bound_compares(run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_strings": 5}, "stop_strings: expected a text"),
        ({"stop_strings": ["a", ""]}, "stop_strings: expected a text"),
        ({"stop_strings": ""}, "stop_strings: expected a text"),
        ({"stop_strings": []}, "stop_strings: expected a text"),
        ({"stop_strings": 0}, "stop_strings: expected a text"),
        ({"eos_token_id": "x"}, "eos_token_id: expected a token id .* got 'x'"),
        ({"eos_token_id": [1, 0.5]}, "eos_token_id: expected a token id"),
        ({"eos_token_id": 2**40}, "eos_token_id: expected a token id"),
        ({"pad_token_id": {}}, "pad_token_id: expected a token id"),
    ],
)
def test_ends_that_cannot_be(wide: HybridEngine, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        wide.generate(TEXTS[0], 4, **options)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("record", [True, False])
def test_how_a_run_ended(wide: HybridEngine, beams: int, record: bool) -> None:
    options: dict[str, Any] = {"do_sample": False, "num_beams": beams, "record": record}
    prompt = ids_of(wide, TEXTS[0])
    free = wide.generate(prompt, 6, eos_token_id=None, **options)
    assert free.ended == "length"
    third = free.tokens[0][2]
    ended = wide.generate(prompt, 6, eos_token_id=third, pad_token_id=0, **options)
    assert ended.ended == "eos" and third in ended.tokens[0]
    for other in ({"max_time": 0}, {"stopping_criteria": [AfterTwo(len(prompt))]}):
        run = wide.generate(prompt, 6, eos_token_id=0, **options, **other)
        assert run.ended == "criterion", other
        assert run.trace.meta["ended"] == "criterion"


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_a_tokenizer_returned(wide: HybridEngine, side: str) -> None:
    run = wide.generate(TEXTS, 6, **GREEDY)
    for kind in ("pt", "np"):
        made = wide.tokenizer(TEXTS, return_tensors=kind, padding=True, padding_side=side)
        given = wide.generate(made, 6, **GREEDY)
        assert given.texts == run.texts and given.tokens == run.tokens
        assert (given.trace.routing.experts == run.trace.routing.experts).all()
    wider = wide.tokenizer(TEXTS, padding="max_length", max_length=40, padding_side=side)
    assert wide.generate(wider, 6, **GREEDY).tokens == run.tokens
    assert wide.generate(dict(wide.tokenizer(TEXTS)), 6, **GREEDY).tokens == run.tokens
    alone = wide.generate(wide.tokenizer(TEXTS[0]), 6, **GREEDY)
    assert alone.tokens == wide.generate(TEXTS[0], 6, **GREEDY).tokens


def test_stop_strings_without_any_tokenizer(
    wide: HybridEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = replace(wide._generator.limits, tokenizer=None)
    monkeypatch.setattr(wide._generator, "limits", limits)
    with pytest.raises(InputError, match="no tokenizer to read the text by"):
        wide.generate([1, 2, 3], 4, stop_strings=["a"])


def test_each_chunk_is_a_prefill_step(wide: HybridEngine) -> None:
    scenario = SCENARIOS["chunks"]
    run, many = scenario.run(wide), len(ids_of(wide, LONG))
    steps = run.trace.steps
    chunks = -(-many // 64)
    assert chunks > 3
    assert steps["kind"].tolist() == [StepKind.PREFILL] * chunks + [StepKind.DECODE] * 3
    assert steps["tokens"].tolist() == [64] * (chunks - 1) + [many - 64 * (chunks - 1)] + [1] * 3
    assert steps["context"].tolist() == [
        *(min(64 * (at + 1), many) for at in range(chunks)),
        *range(many + 1, many + 4),
    ]
    assert run.summary.prompt_tokens == many


def test_a_chunk_of_one_token_is_a_prefill(wide: HybridEngine) -> None:
    many = len(ids_of(wide, TEXTS[0]))
    run = wide.generate(TEXTS[0], 3, do_sample=False, prefill_chunk_tokens=many - 1)
    assert run.trace.steps["tokens"].tolist() == [many - 1, 1, 1, 1]
    assert run.trace.steps["kind"].tolist() == [0, 0, 1, 1]
    assert (run.summary.prompt_tokens, run.summary.generated_tokens) == (many, 2)


def test_a_stop_between_chunks(wide: HybridEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = wide.session._finish_step

    def stopping(*, complete: bool) -> None:
        finish(complete=complete)
        if wide.session._number == 2:
            wide.stop()

    monkeypatch.setattr(wide.session, "_finish_step", stopping)
    run = SCENARIOS["chunks"].run(wide)
    monkeypatch.undo()
    assert run.ended == "stopped"
    assert run.trace.steps["complete"].tolist() == [1, 1]
    assert len(run.trace.token_rows) == 128
    assert run.tokens == ((),)
    assert_replays(run)


# ---------------------------------------------------------------------- beams, cut short


def test_a_stopped_beam_search_keeps_its_best_beams(
    wide: HybridEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    searching = GREEDY | {"num_beams": 4, "num_return_sequences": 2}
    finish = wide.session._finish_step

    def stopping(*, complete: bool) -> None:
        finish(complete=complete)
        if wide.session._number == 4:
            wide.stop()

    monkeypatch.setattr(wide.session, "_finish_step", stopping)
    run = wide.generate(TEXTS[:2], 8, **searching)
    monkeypatch.undo()
    assert run.ended == "stopped"
    assert [len(row) for row in run.tokens] == [3] * 4
    assert run.texts[0] == wide.tokenizer.decode(list(run.tokens[0]))
    assert run.summary.generated_tokens == 6
    assert "_reorder_cache" not in vars(wide.model)
    assert_replays(run)
    # the leading beams of the step that was stopped go on from two of the four best of this one
    four = wide.generate(TEXTS[:2], 3, **searching | {"num_return_sequences": 4}).tokens
    assert set(run.tokens[:2]) <= set(four[:4]) and set(run.tokens[2:]) <= set(four[4:])


def test_beams_without_a_record(wide: HybridEngine) -> None:
    run = wide.generate(TEXTS[0], 5, num_beams=3, do_sample=False, record=False)
    assert run.tokens == wide.generate(TEXTS[0], 5, num_beams=3, do_sample=False).tokens
    assert len(run.trace.token_rows) == 0


# ---------------------------------------------------------------------- sampling


def test_a_seed_repeats_and_leaves_no_trace(wide: HybridEngine) -> None:
    torch.manual_seed(5)
    drawn = torch.rand(2)
    torch.manual_seed(5)
    runs = [wide.generate(TEXTS[0], 12, **SAMPLED, seed=seed) for seed in (1, 1, 2)]
    assert runs[0].tokens == runs[1].tokens != runs[2].tokens
    assert torch.equal(torch.rand(2), drawn)
    assert "".join(wide.stream(TEXTS[0], 12, **SAMPLED, seed=1)) == runs[0].text


def test_several_answers(wide: HybridEngine) -> None:
    run = SCENARIOS["sampling"].run(wide)
    assert len(run.tokens) == len(run.texts) == 6
    assert len(set(run.tokens)) > 3
    assert run.text == run.texts[0]
    tokens = run.trace.tokens
    assert np.unique(tokens["sequence"]).tolist() == [0, 1]
    assert np.unique(tokens["beam"]).tolist() == [0, 1, 2]


# ---------------------------------------------------------------------- conversations


def test_a_conversation_goes_on(wide: HybridEngine) -> None:
    first = wide.generate(CHAT, 6, do_sample=False)
    assert first.messages == (*CHAT, {"role": "assistant", "content": first.text})
    more = [*first.messages, {"role": "user", "content": "And Romeo?"}]
    second = wide.generate(more, 6, do_sample=False)
    prompt = f"user: Who is Juliet?\nassistant: {first.text}\nuser: And Romeo?\nassistant:"
    assert second.tokens == wide.generate(prompt, 6, do_sample=False).tokens
    assert second.messages[:-1] == tuple(more)
    assert wide.generate("no chat", 2).messages == ()


def test_an_answer_goes_on(wide: HybridEngine) -> None:
    """Messages that end with the assistant's: a cut-off answer, continued."""
    cut = [*CHAT, {"role": "assistant", "content": "Juliet is"}]
    run = wide.generate(cut, 4, do_sample=False)
    prompt = "user: Who is Juliet?\nassistant: Juliet is"
    assert run.tokens == wide.generate(prompt, 4, do_sample=False).tokens
    assert run.messages == (*CHAT, {"role": "assistant", "content": "Juliet is" + run.text})


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"content": "hi"}], 'expected {"role": "user"'),
        ([{"role": "user"}], 'expected {"role": "user"'),
        ([{"role": 3, "content": "hi"}], 'expected {"role": "user"'),
        ([{"role": "clown", "content": "hi"}], "refused the messages: no clowns"),
    ],
)
def test_messages_that_are_none(
    wide: HybridEngine, monkeypatch: pytest.MonkeyPatch, messages: Any, message: str
) -> None:
    strict = "{% if messages[0].role == 'clown' %}{{ raise_exception('no clowns') }}{% endif %}x"
    monkeypatch.setattr(wide.tokenizer, "chat_template", strict)
    with pytest.raises(InputError, match=message):
        wide.generate(messages, 2)


# ---------------------------------------------------------------------- batches of ids


def test_lists_of_ids_are_a_batch(wide: HybridEngine) -> None:
    ids = [ids_of(wide, text) for text in TEXTS]
    run = wide.generate(ids, 4, do_sample=False)
    assert run.tokens == wide.generate(TEXTS, 4, do_sample=False).tokens
    for bad, message in (
        ([[1], []], "no tokens"),
        ([[1], [10**20]], "0 to 2047"),
        ([[-1]], "0 to"),
    ):
        with pytest.raises(InputError, match=message):
            wide.generate(bad, 2)


# ---------------------------------------------------------------------- streaming


def test_pieces_are_the_text(wide: HybridEngine) -> None:
    for prompt in (TEXTS[0], "数学 é ö 🙂", [5, 1000, 2000]):
        pieces = list(wide.stream(prompt, 24, **SAMPLED, seed=3))
        assert wide.last_run is not None
        assert "".join(pieces) == wide.last_run.text
        assert all(pieces)
        assert_replays(wide.last_run)


def test_closing_a_stream_stops_the_run(wide: HybridEngine) -> None:
    stream = wide.stream(TEXTS[0], 300, do_sample=False)
    first = next(stream)
    stream.close()
    assert not wide.running
    run = wide.last_run
    assert run is not None
    assert run.ended == "stopped"
    assert run.text.startswith(first)
    assert_replays(run)


def test_a_stream_that_is_stopped_ends_with_its_text(wide: HybridEngine) -> None:
    pieces: list[str] = []
    for piece in wide.stream(TEXTS[0], 300, do_sample=False):
        pieces.append(piece)
        wide.stop()
    assert wide.last_run is not None
    assert wide.last_run.ended == "stopped"
    assert "".join(pieces) == wide.last_run.text


def test_errors_come_out_of_a_stream(wide: HybridEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = wide.session.orchestrator.decide
    calls = 0

    def failing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 100:
            raise RuntimeError("from a test")
        return decode(*args)

    monkeypatch.setattr(wide.session.orchestrator, "decide", failing)
    with pytest.raises(RuntimeError, match="from a test"):
        list(wide.stream(TEXTS[0], 20, do_sample=False))
    monkeypatch.undo()
    assert wide.last_run is not None
    assert wide.last_run.ended == "error"
    assert wide.generate("ok", 2).ended == "length"
    assert not [thread for thread in threading.enumerate() if thread.name == "fiddler-generate"]


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (TEXTS, {}, "not 3 sequences"),
        (TEXTS[0], {"num_beams": 4}, "not 4 beams"),
        (TEXTS[0], SAMPLED | {"num_return_sequences": 2}, "not 2 sequences"),
        ("", {}, "empty"),
        (TEXTS[0], {"seed": -1}, "seed: expected"),
        (TEXTS[0], {"seed": 2**63}, "seed: expected"),
        (TEXTS[0], {"prefill_chunk_tokens": 0}, "prefill_chunk_tokens: expected"),
        (TEXTS[0], {"prefill_chunk_size": 4}, "use prefill_chunk_tokens="),
        (TEXTS[0], {"use_cache": False}, "leave it out"),
    ],
)
def test_streams_that_cannot_be(
    wide: HybridEngine, prompt: Any, options: dict[str, Any], message: str
) -> None:
    """Refused at once, not when the first piece is asked for; on_text alike."""
    with pytest.raises(InputError, match=message):
        wide.stream(prompt, 4, **options)
    with pytest.raises(InputError, match=message):
        wide.generate(prompt, 4, on_text=print, **options)


def test_without_tokenizer_there_is_no_text_to_stream(
    wide: HybridEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = replace(wide._generator.limits, tokenizer=None)
    monkeypatch.setattr(wide._generator, "limits", limits)
    with pytest.raises(InputError, match="no text to stream"):
        wide.stream([1, 2, 3], 4)
