"""What is asked of every node of a cluster, and which answers end a search before it begins."""

from pathlib import Path

import pytest

from dna_ray.errors import UserError
from dna_ray.remote.nodes import Answer, check_nodes, compare
from dna_ray.remote.session import Session
from dna_ray.storage import Place

DRIVER = {
    "Python": "3.11.7",
    "Ray": "2.60.0",
    "dna-ray": "0.1.0",
    "torch": "2.15.0+cpu",
    "probe": "5e88",
}


def test_the_nodes_of_a_session_on_this_machine_are_as_the_driver(
    local: Session, tmp_path: Path
) -> None:
    (tmp_path / "probe").write_text("a run")
    check_nodes(Place.of(tmp_path / "probe"))
    with pytest.raises(UserError, match="the run folder must be reachable"):
        check_nodes(Place.of(tmp_path / "nothing"))


@pytest.mark.parametrize("same", [{}, {"torch": "2.15.0+cu128"}, {"Python": "3.11.9"}])
def test_what_changes_no_result_may_differ(same: Answer) -> None:
    compare(DRIVER, {"one": DRIVER, "two": {**DRIVER, **same}}, "s3://runs/first/manifest.json")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"Python": "3.12.7"}, "must have Python 3.11.7, as the driver has, but node two has 3.12"),
        ({"Ray": "2.59.0"}, "must have Ray 2.60.0, as the driver has, but node two has 2.59.0"),
        ({"torch": "2.14.0+cpu"}, "must have torch 2.15.0.cpu, .* node two has 2.14.0.cpu"),
        ({"dna-ray": ""}, "must have dna-ray 0.1.0, as the driver has, but node two has none"),
        ({"probe": "", "reason": "OSError: no"}, r"node two cannot read '/runs/m' \(OSError: no\)"),
        ({"probe": "77ab"}, r"node two cannot read '/runs/m' \(it has another file there\)"),
        ({"failure": "no answer within 60 s"}, "one does not: node two: no answer within 60 s"),
    ],
)
def test_a_node_that_differs_is_named_with_what_it_must_have(other: Answer, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        compare(DRIVER, {"one": DRIVER, "two": {**DRIVER, **other}}, "/runs/m")
    assert len(str(caught.value).splitlines()) == 1
