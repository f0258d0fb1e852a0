"""Which cluster a search joins, as Ray itself would understand the same words."""

import pytest

from dna_ray.errors import UserError
from dna_ray.remote.join import asked, check_answers

OURS = None


@pytest.mark.parametrize(
    ("address", "variable", "joined", "name"),
    [
        (None, None, OURS, "--address"),
        (None, "", OURS, "--address"),
        (None, "local", OURS, "RAY_ADDRESS"),
        (None, "head:6379", "head:6379", "RAY_ADDRESS"),
        ("auto", "head:6379", "head:6379", "RAY_ADDRESS"),
        ("auto", None, "auto", "--address"),
        ("other:6379", "head:6379", "other:6379", "--address"),
        ("local", "head:6379", OURS, "--address"),
    ],
)
def test_an_address_counts_before_ray_address(
    address: str | None,
    variable: str | None,
    joined: str | None,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert asked(address) == (joined, name)


@pytest.mark.parametrize("address", ["head", ":6379", "head:", "ray://head:10001", "http://a:8265"])
def test_an_address_that_no_driver_can_join_is_refused_as_what_it_was_given_in(
    address: str,
) -> None:
    with pytest.raises(UserError, match=f"must be HOST:PORT, .* but RAY_ADDRESS is '{address}'"):
        check_answers(address, "RAY_ADDRESS")
