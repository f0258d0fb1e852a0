"""Joining a running Ray cluster: which is meant, whether it answers, and whether it has room."""

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import grpc  # type: ignore[import-untyped]
import ray
from ray._private import services
from ray._private.grpc_utils import init_grpc_channel
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from dna_ray.errors import UserError
from dna_ray.progress import View

# The call with which every driver begins: the head tells the identity of its cluster.
_WHO = "/ray.rpc.NodeInfoGcsService/GetClusterId"

_ANSWER = 10.0  # seconds that a cluster may take to answer
_LOOK_AGAIN = 2.0  # seconds

# Seconds after which nothing more will come where nothing has come: a new machine starts and
# installs its software in minutes, but what is beyond its limits the autoscaler never begins.
_PATIENCE, _BEYOND_LIMITS = 1800.0, 15.0

# Ray's label of a node that belongs to a group which something scales: `ray up`, or KubeRay.
_GROUP = "ray.io/node-group"

# What a worker needs.
_ONE_PROCESSOR = MappingProxyType({"CPU": 1.0})


def asked(address: str | None) -> tuple[str | None, str]:
    """The address of the cluster to join, None to start Ray here; and what names it, for messages.

    As Ray does: RAY_ADDRESS, which `ray job submit` sets, counts where `address` is not given or
    is `auto`; `local` is a Ray of our own.
    """
    given = os.environ.get("RAY_ADDRESS")
    chosen, name = (given, "RAY_ADDRESS") if given and address in (None, "auto") else (address, "")
    return (None if chosen == "local" else chosen), name or "--address"


def check_answers(address: str, name: str) -> None:
    """Raise UserError at once where Ray would try for a minute or more to reach a cluster.

    `name` is what the user gave the address in.
    """
    if address == "auto":
        return  # Ray looks for a cluster of this machine, and says at once where there is none
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise UserError(
            "the address of a cluster must be HOST:PORT, or auto for the cluster of this machine, "
            f"but {name} is '{address}'; see what `ray status` says of the cluster"
        )
    channel = init_grpc_channel(address)
    try:
        channel.unary_unary(_WHO)(b"", timeout=_ANSWER)  # an empty message has no bytes
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise _refused(address, _shown()) from None
        raise _silent(address, name, error.details() or error.code().name) from None
    finally:
        channel.close()
    if not services.find_node_ids():
        raise UserError(
            f"a search must run on a machine of the cluster it joins, but no node of '{address}' "
            "is on this one; start it there, with `ray job submit` or after `ray attach`"
        )


@contextmanager
def joining(address: str, name: str) -> Iterator[None]:
    """While Ray connects to a cluster: turn what hinders it into a UserError."""
    try:
        check_answers(address, name)
        yield
    except AuthenticationError:
        raise _refused(address, "there is none here") from None
    except ConnectionError as error:
        if "InvalidAuthToken" in str(error.__cause__):
            raise _refused(address, _shown()) from None
        raise _silent(address, name, str(error).splitlines()[0]) from None
    except RuntimeError as error:
        versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", str(error))
        if "Version mismatch" not in str(error) or len(versions) != 2:
            raise
        there, here = ("Ray {} on Python {}".format(*both) for both in versions)
        raise UserError(
            f"a search must have the versions of the cluster it joins, but '{address}' has "
            f"{there}, and here is {here}; start it in the cluster's own environment, or start the "
            "cluster anew with these versions"
        ) from None


def _shown() -> str:
    token = os.environ.get("RAY_AUTH_MODE") == "token"
    return "it was shown another one" if token else "RAY_AUTH_MODE is not 'token'"


def _refused(address: str, reason: str) -> UserError:
    return UserError(
        f"the cluster at '{address}' must be shown its token, but {reason}; set "
        "RAY_AUTH_MODE=token, and put what `ray get-auth-token` says on the cluster's head into "
        "~/.ray/auth_token or RAY_AUTH_TOKEN"
    )


def _silent(address: str, name: str, reason: str) -> UserError:
    return UserError(
        f"a Ray cluster must answer at the address, but none does at '{address}' ({reason}); "
        f"check {name}"
    )


def wait_for_room(
    workers: int | None, view: View, each: Mapping[str, float] = _ONE_PROCESSOR
) -> int:
    """How many workers, each needing the resources `each`, the cluster has room for.

    Where it has too little for `workers` (None: for one), but is one that grows, ask it for them
    and wait. A fixed cluster, or one that has stopped to grow, is a UserError.
    """
    wanted = workers or 1
    room = _room(each)
    if room >= wanted:
        return room
    if not _grows():
        raise _too_small(wanted, room, each)
    view.stage("cluster", wanted, "workers")
    view.advance(room, "waiting for nodes to join")
    most, start = room, time.monotonic()
    change = start
    # The demand goes with the driver, however that ends: the cluster is free to shrink again.
    demand = placement_group([dict(each)] * wanted, name="workers of a search")
    try:
        while room < wanted:
            demand.wait(_LOOK_AGAIN)
            room = _room(each)
            if room > most:
                view.advance(room - most)
                most, change = room, time.monotonic()
            patience = _BEYOND_LIMITS if _beyond_limits(demand) else _PATIENCE
            if room < wanted and time.monotonic() - change > patience:
                raise _too_small(wanted, room, each)
    finally:
        remove_placement_group(demand)
    view.end_stage(time.monotonic() - start)
    return room


def _room(each: Mapping[str, float]) -> int:
    there = ray.cluster_resources()
    return min(int(there.get(name, 0.0) // amount) for name, amount in each.items())


def _grows() -> bool:
    return any(node["Alive"] and node["Labels"].get(_GROUP) for node in ray.nodes())


def _beyond_limits(demand: PlacementGroup) -> bool:
    """Whether the autoscaler says that all nodes it may add would not be enough."""
    head = GcsClient(ray.get_runtime_context().gcs_address)
    state = GetClusterStatusReply.FromString(head.get_cluster_status()).autoscaling_state
    refused = [request.details for request in state.infeasible_gang_resource_requests]
    return any(demand.id.hex() in details for details in refused)


def _too_small(wanted: int, room: int, each: Mapping[str, float]) -> UserError:
    there = ray.cluster_resources()
    need = " and ".join(f"{amount * wanted:g} {name}" for name, amount in each.items())
    have = " and ".join(f"{there.get(name, 0.0):g} {name}" for name in each)
    whom = "a worker" if wanted == 1 else f"{wanted} workers"
    fewer = f"give --workers {room}, or " if room else ""
    return UserError(
        f"the cluster must have {need} for {whom}, but has {have}; {fewer}add nodes to it"
    )
