"""Whether the nodes of a cluster are as the driver's: versions, and the run folder within reach.

What joins later is not looked at: an autoscaler sets new nodes up as it did those that are there.
"""

import pickle
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dna_ray.errors import UserError
from dna_ray.storage import Place, reachable

_ANSWER = 60.0  # seconds: a process starts on the node, and may have to reach a store
_PROBE, _REASON, _FAILURE = "probe", "reason", "failure"

Answer = Mapping[str, str]  # versions by name, what the probe holds, or what went wrong


def check_nodes(probe: Place) -> None:
    """Ask every living node for its versions and for what is in a file of the run folder.

    Raises UserError that names a node which differs from the driver's, what it has and what it must
    have. A node that is lost meanwhile is not missed.
    """
    with reachable(probe, "the run folder"):
        probe.read()
    question = (pickle.dumps(probe.filesystem), probe.path)
    ask = _asking()
    remote: Any = ray.remote(ask)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            options = {"num_cpus": 0, "max_retries": 1, "scheduling_strategy": there}
            asked[node["NodeID"]] = remote.options(name="check of a node", **options).remote(
                *question
            )
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=_ANSWER)
    answers = {name: _answer(ref, ref in ready) for name, ref in asked.items()}
    alive = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    compare(
        ask(*question),
        {f"{alive[n]} ({n[:8]})": answer for n, answer in answers.items() if n in alive},
        str(probe),
    )


def _answer(ref: Any, ready: bool) -> Answer:
    if not ready:
        return {_FAILURE: f"no answer within {_ANSWER:.0f} s"}
    try:
        answer: Answer = ray.get(ref)
    except RayError as error:
        return {_FAILURE: str(error).strip().splitlines()[-1]}
    return answer


def compare(driver: Answer, nodes: Mapping[str, Answer], probe: str) -> None:
    """Raise UserError for the first node that differs from the driver's in what matters."""
    for node, answer in nodes.items():
        if _FAILURE in answer:
            raise UserError(
                "every node must run dna-ray's tasks, but one does not: "
                f"node {node}: {answer[_FAILURE]}; look into its logs, or take it out of the "
                "cluster"
            )
        for name, version in driver.items():
            if name != _PROBE and _kind(name, answer[name]) != _kind(name, version):
                raise UserError(
                    f"every node must have {name} {version}, as the driver has, but node {node} "
                    f"has {answer[name] or 'none'}; install it there, and start the node anew"
                )
        if answer[_PROBE] != driver[_PROBE]:
            raise UserError(
                f"every node must reach the run folder, but node {node} cannot read '{probe}' "
                f"({answer.get(_REASON, 'it has another file there')}); give --out a place that "
                "all nodes share, such as s3://BUCKET/FOLDER, and nodes the right to use it"
            )


def _kind(name: str, version: str) -> str:
    """What must be equal: of torch not what it was built for, of Python no bug-fix release."""
    match name:
        case "torch":
            return version.partition("+")[0]
        case "Python":
            return ".".join(version.split(".")[:2])
        case _:
            return version


def _asking() -> Callable[[bytes, str], dict[str, str]]:
    """The function that a node runs.

    It is made here so that Ray sends its code, not its name: a node without dna-ray must answer.
    """

    def ask(filesystem: bytes, path: str) -> dict[str, str]:
        import pickle
        import platform
        from hashlib import sha256
        from importlib import import_module, metadata

        answer = {"Python": platform.python_version()}
        for name in ("Ray", "dna-ray"):
            try:
                answer[name] = import_module(name.lower().replace("-", "_")).__version__
            except ImportError:
                answer[name] = ""
        try:
            answer["torch"] = metadata.version("torch")  # importing it would take seconds
        except metadata.PackageNotFoundError:
            answer["torch"] = ""
        try:
            with pickle.loads(filesystem).open_input_file(path) as file:
                answer["probe"] = sha256(file.read()).hexdigest()
        except (ImportError, OSError) as error:
            answer["probe"], answer["reason"] = "", f"{type(error).__name__}: {error}"
        return answer

    return ask
