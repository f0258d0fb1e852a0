"""Spot instances for `ray up` on AWS, and on-demand ones where spot cannot be had.

Ray's autoscaler would ask for spot again and again: that a launch was refused does not change which
node type it takes (ray.autoscaler.v2, where `CloudResourceMonitor` looks at ALLOCATION_TIMEOUT but
not at ALLOCATION_FAILED). So the fallback is where instances are asked for, at once and for every
launch anew. `clusters/aws.yaml` names this class as its provider.
"""

from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.cli_logger import cli_logger
from ray.autoscaler.node_launch_exception import NodeLaunchException

# EC2's codes for a request that could be met were it not for spot: no capacity is left, the
# account's quota of spot is used up, or the market asks for more than the price limit.
NO_SPOT = {
    "InsufficientInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
}


class SpotFirst(AWSNodeProvider):
    """AWS as Ray knows it, but a spot instance that cannot be had becomes an on-demand one."""

    def create_node(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int
    ) -> dict[str, Any]:
        """Launch instances, trying all subnets; the instances by id.

        Raises NodeLaunchException where on-demand instances cannot be had either, or where the
        request itself is wrong.
        """
        try:
            return super().create_node(node_config, tags, count)
        except NodeLaunchException as error:
            if "InstanceMarketOptions" not in node_config or error.category not in NO_SPOT:
                raise
            cli_logger.warning("no spot instances ({}); asking for on-demand", error.category)
        on_demand = {k: v for k, v in node_config.items() if k != "InstanceMarketOptions"}
        return super().create_node(on_demand, tags, count)
