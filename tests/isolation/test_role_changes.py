"""Changes of role, and claims, beside MCP servers, schemas, interrupts and failures."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from agent_pool import ConfigError, SpawnError
from support.fake_cli import install_faulty
from support.model_scripts import Gate, as_text, bash, tool
from support.ping_servers import server, servers_of
from support.pool_harness import PoolHarness
from support.pools import PoolProject, wait_until_idle
from support.process_checks import is_alive
from support.waiting import WAIT_TIMEOUT, run, wait_until

OpenHarness = Callable[..., PoolHarness]


# MCP servers


def has_ended(pid: int) -> bool:
    return not is_alive(pid)


async def ping(harness: PoolHarness, agent: str) -> tuple[int, int]:
    """Let an agent call its server; return the pids of the server and of the worker."""
    outcome = await harness.ask(harness.plan(tool("mcp__own__ping")), agent)
    said = outcome.text.split()
    assert said[:2] == ["tool:", "pid"], outcome.text
    await harness.wait_until_idle()
    return int(said[2]), outcome.pid


def test_a_server_of_one_role_ends_before_another_role_works(open_harness: OpenHarness) -> None:
    harness = open_harness(max_workers=1)
    project = harness.project
    project.trust()
    own = json.dumps([{"own": server()}])
    project.agent("caller", description="d", tools="Read, mcp__own", mcpServers=own)
    project.agent("open-caller", description="d", disallowedTools="Agent", mcpServers=own)
    project.agent("reader", description="d", tools="Read")
    project.agent("anything", description="d", disallowedTools="Agent")

    async def main() -> None:
        servers: set[int] = set()
        for agent, other in (
            ("caller", "reader"),
            ("open-caller", "anything"),
            ("caller", "anything"),
        ):
            pid, _ = await ping(harness, agent)
            assert pid not in servers
            servers.add(pid)
            gate = Gate(tool("mcp__own__ping"))
            asking = asyncio.create_task(harness.ask(harness.plan(gate, "done"), other))
            assert await gate.reached_within(WAIT_TIMEOUT)
            await wait_until(partial(has_ended, pid))
            gate.open()
            outcome = await asking
            assert servers_of(outcome.requests[0]) == set()
            assert "mcp__own" not in as_text(outcome.requests[0])
            assert "No such tool available: mcp__own__ping" in as_text(outcome.requests[-1])
            await harness.wait_until_idle()

    harness.run(main())


def test_agents_with_other_servers_do_not_see_each_others_tools(open_harness: OpenHarness) -> None:
    harness = open_harness(max_workers=2)
    harness.project.trust()
    for name in ("one", "two"):
        servers = json.dumps([{name: server(WORD=name)}])
        harness.project.agent(name, description="d", tools=f"mcp__{name}", mcpServers=servers)

    async def main() -> None:
        for name in ("one", "two", "one", "two"):
            outcome = await harness.ask(harness.plan(tool(f"mcp__{name}__ping")), name)
            assert outcome.text.endswith(f"word {name}")
            assert servers_of(outcome.requests[0]) == {name}
            await harness.wait_until_idle()

    harness.run(main())


# Schemas

SCORE = {
    "type": "object",
    "properties": {"score": {"type": "integer"}},
    "required": ["score"],
}


def test_a_schema_is_answered_after_a_change_of_role(open_harness: OpenHarness) -> None:
    harness = open_harness(max_workers=2)
    for name in ("reader", "runner"):
        tools = "Read" if name == "reader" else "Bash"
        harness.project.agent(name, f"You are the {name}.", description="d", tools=tools)

    async def main() -> None:
        pids = set()
        for number, name in enumerate(("reader", "runner", "reader", "runner")):
            task = harness.plan(tool("StructuredOutput", score=number))
            outcome = await harness.ask(task, name, schema=SCORE)
            assert outcome.result.structured == {"score": number}
            assert f"You are the {name}." in outcome.requests[0].system_text
            assert {"Read", "Bash"} & set(outcome.requests[0].tools) == (
                {"Read"} if name == "reader" else {"Bash"}
            )
            pids.add(outcome.pid)
            await harness.wait_until_idle()
            plain = await harness.ask(harness.plan("plain"), name)
            assert (plain.text, plain.result.structured) == ("plain", None)
            assert "StructuredOutput" not in plain.requests[0].tools
            assert plain.pid not in pids
            await harness.wait_until_idle()
        assert len(pids) == 1

    harness.run(main())


# Claims


def make_project(folder: Path) -> str:
    """Make a project with the agent `w`; return its folder."""
    agents = folder / ".claude" / "agents"
    agents.mkdir(parents=True)
    (agents / "w.md").write_text("---\nname: w\ndescription: d\ntools: Bash\n---\nYou work.\n")
    return str(folder)


async def parked(harness: PoolHarness) -> int:
    """Wait for a spare that can be claimed; return its pid."""
    async with asyncio.timeout(WAIT_TIMEOUT):
        while True:
            for worker in await harness.pool.workers():
                if not worker.agent and worker.state == "idle" and worker.pid is not None:
                    return worker.pid
            await asyncio.sleep(0.01)


@pytest.mark.long
def test_an_interrupt_in_the_first_turn_after_a_claim_leaves_nothing(
    open_harness: OpenHarness, tmp_path: Path
) -> None:
    harness = open_harness(spares=1)
    harness.run(harness.ask(harness.plan()))  # now the binary is probed
    place = make_project(tmp_path / "one")

    async def main() -> None:
        spare, secret, gate = await parked(harness), harness.word("secret"), Gate()
        task = harness.plan(bash(f"export left={secret}; cd /"), gate)
        leaving = asyncio.create_task(harness.ask(f"{task} {secret}", "w", project=place))
        assert await gate.reached_within(WAIT_TIMEOUT)
        leaving.cancel()
        await asyncio.wait([leaving])
        gate.open()
        await harness.wait_until_idle()
        outcome = await harness.ask(harness.plan(bash("echo $left; pwd")), "w", project=place)
        assert (outcome.text, outcome.pid) == (f"tool: {place}", spare)
        assert not any(secret in as_text(request) for request in outcome.requests)

    harness.run(main())


def test_a_worker_claimed_before_the_probe_refused_claims_is_replaced(
    open_harness: OpenHarness, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # In the probe's process it does not follow its claim.
    harness = open_harness(cli=install_faulty(tmp_path / "fake", "claims"), spares=1)
    place = make_project(tmp_path / "one")
    caplog.set_level(logging.WARNING, logger="agent_pool")

    async def main() -> None:
        gate = Gate("yes")
        # The probe is asked only after the end of this task.
        first = asyncio.create_task(harness.ask(harness.plan(gate)))
        spare = await parked(harness)
        claimed = await harness.ask(harness.plan("claimed"), "w", project=place)
        assert (claimed.text, claimed.pid) == ("claimed", spare)
        gate.open()
        assert (await first).text == "yes"
        await harness.wait_until_idle()
        again = await harness.ask(harness.plan("again"), "w", project=place)
        assert again.text == "again"
        assert not is_alive(spare)
        assert "it was claimed, and its CLI then differs from a new process" in caplog.text

    harness.run(main())


# Failures


def test_a_failed_task_is_not_the_reason_of_a_failed_change_of_role(
    pool_project: PoolProject, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="agent_pool")
    pool_project.agent("other", tools="Read")
    pool_project.agent("tester", tools="Bogus")
    acts = (
        {"at": "prompt", "do": "show_tools", "tools": [], "times": 1},
        {
            **{"at": "control", "do": "reply", "match": '"agent": "agent-pool:other-'},
            **{"subtype": "error", "error": "no such agent"},
        },
    )

    async def main() -> None:
        async with pool_project.faulty(*acts, max_workers=1) as pool:
            with pytest.raises(ConfigError, match="no tool of its list exists: Bogus"):
                await pool.invoke("tester", "one")
            await wait_until_idle(pool)
            (worker,) = await pool.workers()
            with pytest.raises(SpawnError, match=r"not take over the agent: .*no such agent"):
                await pool.invoke("other", "two")
        # The pool tries new processes too; this is said of the one that had had the failed task.
        label = f"worker {worker.worker} of agent 'other' (pid {worker.pid})"
        assert f"{label} could not take over the agent: it could not become" in caplog.text
        assert "no tool of its list" not in caplog.text

    run(main())
