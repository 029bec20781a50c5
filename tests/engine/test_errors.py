"""The exception tree: who is whose parent, and what the messages hold."""

import pickle

import pytest

from engine import errors


@pytest.mark.parametrize(
    ("child", "parents"),
    [
        (errors.InputError, (errors.FiddlerError, ValueError)),
        (errors.UnknownNameError, (errors.InputError,)),
        (errors.BudgetError, (errors.FiddlerError, ValueError)),
        (errors.CheckpointError, (errors.FiddlerError,)),
        (errors.UnsupportedModelError, (errors.CheckpointError,)),
        (errors.TraceError, (errors.FiddlerError,)),
        (errors.LedgerError, (errors.FiddlerError,)),
        (errors.DeviceError, (errors.FiddlerError,)),
    ],
)
def test_tree(child: type[Exception], parents: tuple[type[Exception], ...]) -> None:
    assert child.__bases__ == parents
    assert child.__name__ in (errors.__doc__ or ""), "the tree in the docstring is complete"


def test_a_budget_error_carries_the_smallest_budget_also_through_pickle() -> None:
    error = errors.BudgetError("needs 4.5 GB", minimum_bytes=4_500_000_000)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.minimum_bytes) == ("needs 4.5 GB", 4_500_000_000)
    assert errors.BudgetError("no budget would do").minimum_bytes is None


def test_an_unknown_name_lists_the_valid_ones_and_the_closest() -> None:
    error = errors.unknown_name("policy", "Fidler", ["fiddler", "stream", "lru"])
    assert isinstance(error, errors.UnknownNameError)
    message = str(error)
    assert "unknown policy 'Fidler'" in message
    assert "Did you mean 'fiddler'?" in message
    assert "fiddler, stream, lru" in message


@pytest.mark.parametrize("name", [None, 7, "", "x" * 10_000])
def test_an_unknown_name_can_be_anything(name: object) -> None:
    message = str(errors.unknown_name("policy", name, iter(["stream"])))
    assert "stream" in message
    assert "Did you mean" not in message
    assert len(message) < 200


def test_no_valid_names_at_all() -> None:
    assert "(none)" in str(errors.unknown_name("trace", "x", []))
