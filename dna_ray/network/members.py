"""The weights of a cell that was trained several times, as one state.

Members are networks of the same cell that were trained apart. Those of the first have their own
names in the state, as those of an only one do.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

Weights = dict[str, Tensor]


def together(members: Sequence[Mapping[str, Tensor]]) -> Weights:
    """One state of all members' own."""
    return {
        _prefix(number) + name: value
        for number, state in enumerate(members)
        for name, value in state.items()
    }


def apart(state: Mapping[str, Tensor]) -> list[Weights]:
    """The states of the members, of which there is one at least."""
    count = len({name.partition("/")[0] for name in state if name.startswith("member-")}) + 1
    prefixes = [_prefix(number) for number in range(1, count)]
    first = {name: value for name, value in state.items() if not name.startswith("member-")}
    return [
        first,
        *(
            {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}
            for prefix in prefixes
        ),
    ]


def _prefix(number: int) -> str:
    return f"member-{number}/" if number else ""
