"""Where actors live."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def beside_the_driver(actor: Any, **options: Any) -> Any:
    """An actor class whose actors live on the driver's node: they die with it, and not before."""
    node = ray.get_runtime_context().get_node_id()
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return actor.options(scheduling_strategy=here, **options)
