"""Spot machines with on-demand machines as a fallback, in the autoscaler of ``ray up``.

Ray 2.60 keeps asking for a node type whose machines the cloud does not have: its scorer of node types is given the
failed launches and ignores them, and the newer autoscaler counts none where a launch is refused at once. `score` is
a scorer that heeds them. The environment variable ``RAY_AUTOSCALER_UTILIZATION_SCORER`` names it in ``cluster.yaml``.
"""

from __future__ import annotations

from typing import Any

from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer
from ray.autoscaler._private.util import ResourceDict


def score(
    node_resources: ResourceDict,
    resources: list[ResourceDict],
    node_type: str,
    *,
    node_availability_summary: NodeAvailabilitySummary,
) -> tuple[Any, ...] | None:
    """The rank of a node type for the resources that are asked for; the autoscaler launches the highest.

    None: the type can serve none of them. A GPU machine ranks low where no GPU is asked for, as with Ray's own
    scorer. Next, a type whose last launch failed ranks below every other, until the autoscaler forgets the failure
    (``AUTOSCALER_NODE_AVAILABILITY_MAX_STALENESS_S``). The rest of the rank is Ray's. Of types with equal ranks the
    autoscaler takes the last by name: ``cpu_spot`` before ``cpu_on_demand``.
    """
    usual = _default_utilization_scorer(
        node_resources, resources, node_type, node_availability_summary=node_availability_summary
    )
    if usual is None:
        return None
    record = node_availability_summary.node_availabilities.get(node_type)
    return (usual[0], record is None or record.is_available, *usual[1:])
