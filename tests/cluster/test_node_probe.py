"""What a node can do, and why it gets no tasks, on the real CLI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent_pool import AgentPool, NodeInfo, load_settings
from agent_pool.cli.doctor.nodes import check_nodes, node_findings
from agent_pool.cluster.node_probe import NodeProbe, probe_node
from agent_pool.cluster.node_project import NodeProjects
from agent_pool.cluster.project_source import ProjectSource
from support import fake_cli
from support.environment import UNREACHABLE_URL
from support.fake_pool import FakePool, make_stats
from support.pools import PoolProject
from support.waiting import run


def probe(project: PoolProject, source: ProjectSource | None = None, **environ: Any) -> NodeProbe:
    """Check this machine as a node, with a project at its path unless another one is given."""
    variables = project.environment(UNREACHABLE_URL, **environ)
    variables = {name: value for name, value in variables.items() if value}
    projects = NodeProjects(project.home / "cache", variables)
    source = source or ProjectSource("path", str(project.root))
    return run(probe_node(load_settings(variables), variables, projects, source))


def test_a_complete_node_has_no_problem_and_names_its_version(pool_project: PoolProject) -> None:
    found = probe(pool_project)
    assert found.problem == ""
    assert found.version.startswith("2.")
    assert found.sign_in == "api_key, ANTHROPIC_API_KEY, firstParty"
    assert found.resets is None
    assert NodeProbe.from_json(found.as_json()) == found


@pytest.mark.long
def test_a_probe_knows_whether_the_cli_has_forgotten_before(pool_project: PoolProject) -> None:
    variables = pool_project.environment(UNREACHABLE_URL)

    async def find_out() -> None:
        pool = AgentPool(load_settings(variables), environ=variables)
        await pool.reset_verdict("tester", refresh=True)

    run(find_out())
    assert probe(pool_project).resets is True


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"CLAUDE_CLI": "/nowhere/claude"}, "'/nowhere/claude', which does not exist"),
        ({"ANTHROPIC_API_KEY": ""}, "on this node: run `claude` and type /login"),
    ],
)
def test_a_node_that_lacks_something_reports_the_next_step(
    pool_project: PoolProject, environ: dict[str, Any], problem: str
) -> None:
    assert problem in probe(pool_project, **environ).problem


def test_a_node_whose_cli_is_too_old_reports_both_versions(pool_project: PoolProject) -> None:
    fake_cli.install(pool_project.fake, version="1.0.99")
    found = probe(pool_project, CLAUDE_CLI=str(pool_project.fake / "claude"))
    assert "is Claude Code 1.0.99; agent-pool needs 2.0 or newer" in found.problem


def test_a_node_without_the_folder_keeps_its_version(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    found = probe(pool_project, ProjectSource("path", str(tmp_path / "missing")))
    assert found.version.startswith("2.")
    assert found.problem == f"there is no folder {tmp_path / 'missing'}"


# In `agent-pool doctor`


class _Cluster(FakePool):
    """A pool with these nodes."""

    def __init__(self, *nodes: NodeInfo, problem: str = "") -> None:
        super().__init__()
        self._nodes = nodes
        self._problem = problem

    async def stats(self) -> object:  # type: ignore[override]
        return make_stats(nodes=self._nodes, cluster_problem=self._problem)


READY = NodeInfo("blue", "ready", size=4, version="2.1.332")
LEFT_OUT = NodeInfo("red", "left_out", "there is no folder /srv/shop", size=4)


def findings(daemon: FakePool | None, address: str | None) -> list[tuple[str, str, str]]:
    async def main() -> list[tuple[str, str, str]]:
        found = [one async for one in check_nodes(daemon, address)]
        return [(one.state, one.message, one.advice) for one in found]

    return run(main())


def test_doctor_names_each_node_that_is_left_out_with_its_reason() -> None:
    assert findings(_Cluster(READY, LEFT_OUT), "auto") == [
        ("ok", "blue: 0 of 4 tasks running, Claude Code 2.1.332", ""),
        (
            "warning",
            "red: left out: there is no folder /srv/shop",
            "correct it there; the node is checked again each minute",
        ),
    ]


def test_doctor_fails_if_no_node_gets_tasks() -> None:
    assert [one.state for one in node_findings([READY, LEFT_OUT])] == ["ok", "warning"]
    last = node_findings([LEFT_OUT])[-1]
    assert (last.state, last.message) == ("wrong", "none of 1 node gets tasks")


def test_doctor_says_that_the_head_of_the_cluster_does_not_answer() -> None:
    [first, blue] = findings(_Cluster(READY, problem="the head does not answer"), "auto")
    assert first[:2] == ("wrong", "the head does not answer")
    assert first[2].startswith("start the head and the nodes again")
    assert blue[0] == "ok"


def test_doctor_says_nothing_of_nodes_without_a_cluster() -> None:
    assert findings(_Cluster(READY), None) == []
    [(state, message, advice)] = findings(None, "10.0.0.1:6379")
    assert state == "note"
    assert "10.0.0.1:6379 are not known while no daemon runs" in message
    assert advice == "agent-pool daemon start"
