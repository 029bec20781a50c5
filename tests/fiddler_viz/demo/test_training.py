import math

import numpy as np
import pytest
import torch
from transformers import MixtralForCausalLM

from fiddler_viz.demo.training import corpus, evaluation, generated, statistics
from fiddler_viz.demo.training.balance import load_balance
from fiddler_viz.demo.training.calibration import calibration_text
from fiddler_viz.demo.training.muon import orthogonal
from fiddler_viz.demo.training.network import Network
from fiddler_viz.demo.training.shape import demo_config, new_model
from fiddler_viz.demo.training.tokenizer import train_tokenizer
from fiddler_viz.demo.training.train import (
    Rates,
    add_gradients,
    new_optimizers,
    schedule,
    update,
    write_checkpoint,
)
from fiddler_viz.demo.training.windows import Windows


@pytest.fixture(scope="module")
def domains() -> list[corpus.Domain]:
    texts = {
        "verse": "But soft, what light through yonder window breaks?\n" * 2000,
        "spanish": "En el principio crió Dios los cielos y la tierra.\n" * 2000,
        "python": "def main() -> None:\n    print('hello')\n" * 3000,
        "sums": generated.sums(100_000, seed=1),
        "json": generated.records(100_000, seed=1),
    }
    return [corpus.split(name, text) for name, text in texts.items()]


@pytest.fixture(scope="module")
def tokenizer(domains):
    return train_tokenizer((d.train[0] for d in domains), vocabulary=400)


@pytest.fixture
def model() -> MixtralForCausalLM:
    config = demo_config(vocabulary=400)
    config.num_hidden_layers = 2
    return new_model(config, seed=0)


def test_blocks_are_whole_lines_and_lose_nothing():
    text = "".join(f"línea {i}\n" for i in range(3000)) + "no line end"
    blocks = corpus.cut(text)
    assert "".join(blocks) == text
    assert all(block.endswith("\n") for block in blocks[:-1])
    assert all(4096 <= len(b.encode()) < 4096 + 20 for b in blocks[:-1])


def test_every_twentieth_block_is_validation():
    text = "".join(f"{i:015d}\n" for i in range(256 * 60))
    domain = corpus.split("numbers", text)
    assert (len(domain.train), len(domain.validation)) == (57, 3)
    assert domain.validation[0].startswith(f"{256 * 19:015d}")
    assert not set(domain.train) & set(domain.validation)


def test_sums_are_right_and_never_held_out():
    for line in generated.sums(50_000, seed=0).splitlines():
        operands, total = line.split("=")
        left, right = map(int, operands.split("+"))
        assert left + right == int(total)
        assert left < 10 or right < 10 or not generated.is_held_out(left, right)
    assert all(generated.is_held_out(b, a) for a, b in evaluation.two_digit_pairs(held_out=True))


def test_standard_library_is_clean():
    source = corpus.standard_library(50_000)
    assert source.isascii()
    assert "copyright" not in source.lower()


def test_missing_text_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tinyshakespeare\.txt"):
        corpus.load(tmp_path)


def test_calibration_text_is_validation_only(domains):
    text = calibration_text(domains, 300)
    assert 1500 <= len(text.encode()) < 2500
    for domain, part in zip(domains, text.split("\n\n"), strict=True):
        assert any(part.strip() in block for block in domain.validation)


def test_tokenizer_keeps_any_text(tokenizer):
    for text in ("¿Quién? ñandú\n\ttab  two", "x = 3.14  # 日本", "23+45=68\n", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("1234567890")) == 10
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 0


def test_windows_have_their_shape(domains, tokenizer):
    windows = Windows(domains, tokenizer, seed=0)
    batch = windows.batch(40, 32)
    assert batch.shape == (40, 33)
    assert 0 < (batch[:, 16] == 0).sum() < 40  # some switch domain half-way
    assert torch.equal(batch, Windows(domains, tokenizer, seed=0).batch(40, 32))


def test_even_load_costs_top_k():
    index = torch.tensor([[0, 1], [2, 3], [4, 5], [6, 7]])
    assert load_balance(torch.zeros(4, 8), index).item() == pytest.approx(2)
    skewed = torch.zeros(4, 8)
    skewed[:, 0] = 5
    assert load_balance(skewed, torch.tensor([[0, 1]] * 4)) > 4


def test_training_pass_is_the_models_own(model):
    windows = torch.randint(0, 400, (2, 33), generator=torch.Generator().manual_seed(0))
    losses = Network(model, compiled=False)(windows)
    losses.token.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    logits = model(windows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    loss.backward()
    assert losses.token.item() == pytest.approx(loss.item(), rel=1e-5)
    for name, p in model.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, rtol=1e-3, atol=1e-6)


def test_training_steps_learn(model, domains, tokenizer):
    network, optimizers = Network(model, compiled=False), new_optimizers(model, Rates())
    batch = Windows(domains, tokenizer, seed=0).batch(4, 32)
    first, balance = add_gradients(network, batch)
    assert first == pytest.approx(math.log(400), rel=0.1)
    assert 2 <= balance < 3
    for _ in range(5):
        update(model, optimizers, 1.0)
        last, _ = add_gradients(network, batch)
    assert last < first - 0.5


def test_orthogonal_is_nearly_so():
    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 12, 24)).float())
    assert ((values > 0.5) & (values < 1.3)).all()


def test_schedule_warms_up_and_ends_at_a_twentieth():
    assert schedule(0, 0.0) == pytest.approx(0.01)
    assert schedule(500, 0.0) == 1
    assert schedule(500, 1.0) == pytest.approx(0.05)


def test_checkpoint_opens(model, tokenizer, tmp_path):
    write_checkpoint(model, tokenizer, tmp_path / "model")
    write_checkpoint(model, tokenizer, tmp_path / "model")
    again = MixtralForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    torch.testing.assert_close(again.lm_head.weight, model.lm_head.weight, rtol=0.01, atol=1e-3)
    assert again.generation_config.pad_token_id == 0
    assert again.generation_config.do_sample


def test_bits_per_byte_of_a_model_that_knows_nothing(model, tokenizer, domains):
    with torch.no_grad():
        model.model.norm.weight.zero_()  # every token equally likely
    block = domains[0].validation[0]
    bits = evaluation.bits_per_byte(model, tokenizer, (block,))
    expected = math.log2(400) * len(tokenizer.encode(block)) / len(block.encode())
    assert bits == pytest.approx(expected, rel=1e-4)
    assert evaluation.sums_right(model, tokenizer, [(1, 2), (12, 34)]) == 0


def test_route_records_every_choice(model, tokenizer, domains):
    routing = evaluation.route(model, tokenizer, domains[3].validation, 2)
    assert routing.choices.shape == (2, 256, 2, 2)
    assert routing.guesses.shape == (2, 256, 1, 2)
    assert statistics.recall(routing.guesses, routing.choices[:, :, 1:]) > 0.25  # chance


def test_statistics_of_choices_made_by_hand():
    choices = np.array([[[[0, 1]], [[0, 2]], [[3, 4]], [[4, 3]]]])  # (1, 4, 1, 2)
    load = statistics.loads(choices, 5)
    assert load.tolist() == [[0.25, 0.125, 0.125, 0.25, 0.25]]
    assert statistics.reuse(choices) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert statistics.resident_hits(choices, load, 2) == pytest.approx(4 / 8)
    assert statistics.lru_hits(choices, 5, 2, per_layer=True) == pytest.approx(3 / 8)
    assert statistics.popularity(load).mean == pytest.approx(0.8)


def test_information_of_domains_that_share_no_expert():
    loads = {"a": np.array([[1.0, 0.0]]), "b": np.array([[0.0, 1.0]])}
    bits, lift = statistics.mutual_information(loads, {"a": 1.0, "b": 1.0})
    assert bits.tolist() == [1.0]
    assert lift == 2
    assert statistics.mutual_information({"a": loads["a"]}, {"a": 1.0})[0].tolist() == [0.0]
