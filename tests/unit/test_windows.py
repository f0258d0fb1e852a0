"""Windows that are made ready while others are used."""

import threading

import pytest

from dna_ray.data.windows import ahead


def helpers() -> list[str]:
    """The threads that are there for a GPU."""
    return [t.name for t in threading.enumerate() if t.name.startswith("ahead")]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_all_come_in_order(count: int, device: str) -> None:
    assert list(ahead(range(count), lambda item: item**2, device)) == [n**2 for n in range(count)]


def test_for_a_gpu_the_next_is_made_while_one_is_used_and_no_more() -> None:
    begun = [threading.Event() for _ in range(6)]

    def make(item: int) -> int:
        begun[item].set()
        return item

    for item in ahead(range(6), make, "cuda"):
        if item < 5:
            assert begun[item + 1].wait(10)
        assert [each.is_set() for each in begun].count(True) == min(item + 2, 6)


def test_on_a_processor_none_is_made_before_it_is_asked_for() -> None:
    made: list[int] = []
    for number, _ in enumerate(ahead(range(4), made.append, "cpu"), 1):
        assert made == list(range(number))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_fails_is_raised_in_its_turn(device: str) -> None:
    def make(item: int) -> int:
        if item == 2:
            raise OSError("no window")
        return item

    made = ahead(range(5), make, device)
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(OSError, match="no window"):
        next(made)
    assert helpers() == []


def test_who_stops_in_the_middle_leaves_no_thread() -> None:
    for item in ahead(range(10**6), lambda item: item, "cuda"):
        if item == 3:
            break
    assert helpers() == []
