"""Windows behind a queue: in order for every rank, few at a time, and again after a restart."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dna_ray.errors import UserError
from dna_ray.remote.feed import fed
from dna_ray.remote.session import Session


class Maker:
    """Makes windows that are just their position, and remembers which, and how many are ahead."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.read = [0, 0]
        self.most_ahead = 0

    def __call__(self, position: int) -> Iterator[int]:
        while True:
            self.made.append(position)
            self.most_ahead = max(self.most_ahead, position - min(self.read))
            yield position
            position += 1


def test_every_rank_reads_all_in_order_and_few_are_ahead(local: Session) -> None:
    maker, barrier = Maker(), threading.Barrier(2)
    with fed(local, maker, 12, 2, ahead=3) as series, ThreadPoolExecutor(2) as pool:

        def run(rank: int) -> list[int]:
            reader, seen = series.reader(rank), []
            for position in range(12):
                if position == 6:
                    barrier.wait(60)
                seen.append(reader[position])
                maker.read[rank] = position
            reader.close()
            return seen

        assert list(pool.map(run, range(2))) == [list(range(12))] * 2
    assert maker.made == list(range(12))
    assert maker.most_ahead <= 3


def test_a_rank_that_is_far_ahead_waits_for_the_others(local: Session) -> None:
    maker = Maker()
    with fed(local, maker, 12, 2, ahead=3) as series, ThreadPoolExecutor(1) as pool:
        fast, slow = series.reader(0), series.reader(1)
        assert [fast[p] for p in range(3)] == [0, 1, 2]
        waiting = pool.submit(lambda: fast[3])
        with pytest.raises(TimeoutError):
            waiting.result(timeout=1)
        assert slow[1] == 1
        assert waiting.result(timeout=60) == 3
        assert maker.made == [0, 1, 2, 3]
        slow.close()
        assert [fast[p] for p in range(4, 12)] == list(range(4, 12))


def test_ranks_that_start_again_are_given_earlier_windows(local: Session) -> None:
    maker = Maker()
    with fed(local, maker, 10, 1, ahead=2) as series:
        first = series.reader(0)
        assert [first[p] for p in range(6)] == list(range(6))
        again = series.reader(0)
        assert [again[p] for p in range(4, 10)] == list(range(4, 10))
        again.close()
    assert maker.made.count(4) == 2  # what is still there is not made again
    assert maker.made.count(9) == 1


def test_what_fails_while_windows_are_made_is_the_error_of_the_body(local: Session) -> None:
    def make(position: int) -> Iterator[int]:
        yield position
        raise UserError("pictures must stay readable")

    def read() -> None:
        with fed(local, make, 5, 1, ahead=3) as series:
            reader = series.reader(0)
            assert reader[0] == 0
            reader[1]

    with pytest.raises(UserError, match="stay readable"):
        read()
