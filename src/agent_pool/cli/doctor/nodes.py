"""The check of the machines of a cluster: which of them get tasks, and why the others do not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from agent_pool import AgentPoolError, NodeInfo, PoolAPI
from agent_pool.cli.doctor.findings import Finding
from agent_pool.text import count
from agent_pool.views.rows import node_text

SUBJECT: Final = "Nodes"
ADVICE: Final = "correct it there; the node is checked again each minute"
CLUSTER_ADVICE: Final = "start the head and the nodes again; the daemon connects by itself"


async def check_nodes(daemon: PoolAPI | None, address: str | None) -> AsyncIterator[Finding]:
    """Report the nodes of the daemon's cluster.

    Args:
        daemon: the daemon's pool, not open; None if no daemon runs.
        address: the cluster's address, the setting `ray`; None without a cluster.
    """
    if address is None:
        return
    if daemon is None:
        message = f"the nodes of {address} are not known while no daemon runs"
        yield Finding(SUBJECT, "note", message, "agent-pool daemon start")
        return
    try:
        async with daemon:
            stats = await daemon.stats()
    except AgentPoolError as error:
        yield Finding(SUBJECT, "wrong", f"the daemon does not report its nodes: {error}")
        return
    if stats.cluster_problem:
        yield Finding(SUBJECT, "wrong", stats.cluster_problem, CLUSTER_ADVICE)
    for finding in node_findings(stats.nodes):
        yield finding


def node_findings(nodes: Sequence[NodeInfo]) -> list[Finding]:
    """Return a finding for each node, and one for all if none of them gets tasks."""
    ready = sum(node.state == "ready" for node in nodes)
    found = [_finding(node) for node in nodes]
    if not ready:
        message = f"none of {count(len(nodes), 'node')} gets tasks"
        found.append(Finding(SUBJECT, "wrong", message, "start a node: ray start --address=…"))
    return found


def _finding(node: NodeInfo) -> Finding:
    if node.state == "ready":
        return Finding(SUBJECT, "ok", node_text(node))
    # The others do its work, so the pool is not broken.
    is_left_out = node.state == "left_out"
    return Finding(SUBJECT, "warning", node_text(node), ADVICE if is_left_out else "")
