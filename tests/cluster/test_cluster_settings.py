"""The settings of a cluster: whom a daemon with one serves, and which variables it sends."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent_pool import ConfigError, Settings, connect, load_settings
from agent_pool.cli.connect import find_pool
from agent_pool.cli.daemon import daemon
from agent_pool.client import start
from agent_pool.client.environment import changed_variables
from agent_pool.cluster.ray_pool import RayPool
from agent_pool.runtime import DaemonAddress, config_scope, fits_scope
from support.fake_pool import FakePool
from support.rest_server import served, task_body
from support.waiting import run

HOME = {"HOME": "/home/someone"}
CLUSTER = {"AGENT_POOL_RAY": "10.0.0.1:6379", "AGENT_POOL_RAY_WORKERS": "4"}


@pytest.mark.parametrize(
    ("client", "daemon", "is_served"),
    [
        ({}, {}, True),
        ({}, CLUSTER, True),
        (CLUSTER, CLUSTER, True),
        ({"AGENT_POOL_RAY": "10.0.0.1:6379"}, CLUSTER, True),
        (CLUSTER, {}, False),
        ({"AGENT_POOL_RAY": "10.0.0.2:6379"}, CLUSTER, False),
        ({"AGENT_POOL_MAX_SIZE": "2"}, CLUSTER, False),
        ({"AGENT_POOL_RAY": ""}, {}, True),
    ],
)
def test_a_client_leaves_the_place_of_tasks_to_the_daemon_or_names_the_same(
    client: dict[str, str], daemon: dict[str, str], is_served: bool
) -> None:
    scopes = config_scope({**HOME, **client}), config_scope({**HOME, **daemon})
    assert fits_scope(*scopes) is is_served


def test_only_listed_variables_of_a_client_leave_the_machine() -> None:
    client = {"ANTHROPIC_API_KEY": "key", "TEAM_TOKEN": "token", "HOME": "/home/other"}
    assert changed_variables(client, {}, ("TEAM_*",)) == {
        "ANTHROPIC_API_KEY": "key",
        "HOME": "/home/other",
    }
    assert changed_variables(client, {}, (), ("TEAM_*",)) == {"TEAM_TOKEN": "token"}
    assert changed_variables(client, {}, ("TEAM_*",), ("TEAM_*",)) is None
    assert changed_variables(client, {}, (), ()) is None


def test_variables_are_sent_only_if_there_are_nodes() -> None:
    assert Settings().sent_variables is None
    assert load_settings(dict(CLUSTER)).sent_variables == ()
    listed = load_settings({**CLUSTER, "AGENT_POOL_RAY_ENV": "TEAM_*, ANTHROPIC_API_KEY"})
    assert listed.sent_variables == ("TEAM_*", "ANTHROPIC_API_KEY")


def test_a_request_over_rest_gets_only_the_listed_variables() -> None:
    async def main() -> None:
        pool = FakePool()
        async with served(pool, sent=("TEAM_*",)) as (server, _):
            environment = {"ANTHROPIC_API_KEY": "key", "TEAM_TOKEN": "token"}
            await server.ask("POST", "/v1/tasks", {**task_body(), "environment": environment})
        assert [one.env for one in pool.requests] == [{"TEAM_TOKEN": "token"}]

    run(main())


def test_a_missing_extra_is_reported_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('no such module')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    with pytest.raises(ConfigError, match=r"pip install 'claude-agent-pool\[ray\]'"):
        run(RayPool(Settings(ray="auto"), environ={}).open())


def test_the_option_ray_becomes_a_setting_of_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}

    def ensure(environ: dict[str, str]) -> DaemonAddress:
        found.update(environ)
        return DaemonAddress(1, "1", 0.0, "", "", "", "")

    monkeypatch.setattr(start, "ensure_daemon", ensure)
    # The command changes the environment of this process; only what `setenv` has noted is undone.
    monkeypatch.setenv("AGENT_POOL_RAY", "10.0.0.9:1")
    done = CliRunner().invoke(daemon, ["--ray", "ray://10.0.0.1:6379", "start"])
    assert done.exit_code == 0
    assert found["AGENT_POOL_RAY"] == "10.0.0.1:6379"


def test_connect_takes_the_address_of_a_cluster_as_a_setting(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "PATH": "", "AGENT_POOL_DAEMON": "on"}
    for pool in (
        connect("ray://10.0.0.1:6379", environ=environ),
        connect(url="ray://10.0.0.1:6379", environ=environ),
        connect(environ={**environ, "AGENT_POOL_RAY": "ray://10.0.0.1:6379"}),
    ):
        assert pool.settings.ray == "10.0.0.1:6379"
    with pytest.raises(ConfigError, match="expected http"):
        connect(url="ray://10.0.0.1:10001", token="x", environ=environ)


def test_a_command_with_a_cluster_never_runs_the_task_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_POOL_DAEMON", "off")
    with pytest.raises(ConfigError, match="this command needs the daemon"):
        find_pool(Settings(ray="auto"))
