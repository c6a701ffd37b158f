"""How the daemon begins, how it ends, and what it leaves: nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_pool import ConfigError, DaemonUnavailable, runtime
from agent_pool.client import start as client
from support.daemons import DaemonProject, wait_gone
from support.process_checks import is_alive
from support.waiting import blocking_wait

MANY_STARTERS = 5


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProject]:
    """Return a project whose daemon runs as long as this module, for tests that leave it so."""
    with tempfile.TemporaryDirectory(prefix="apd-", dir="/tmp") as short:
        project = DaemonProject(tmp_path_factory.mktemp("running"), Path(short))
        project.start()
        yield project
        project.stop()
        left = [" ".join(process.cmdline()) for process in project.processes()]
        project.end()
        assert left == []


def test_a_start_makes_private_files_and_a_second_finds_it(daemon_project: DaemonProject) -> None:
    first = daemon_project.start()
    assert daemon_project.start() == first
    assert daemon_project.files() == ["daemon.json", "http.sock", "mcp.sock"]
    modes = {path.name: path.stat().st_mode for path in daemon_project.runtime.iterdir()}
    assert {name: oct(stat.S_IMODE(mode)) for name, mode in modes.items()} == dict.fromkeys(
        modes, "0o600"
    )
    for folder in (daemon_project.runtime, daemon_project.state):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((daemon_project.state / client.LOG_NAME).stat().st_mode) == 0o600
    assert [process.pid for process in daemon_project.daemons()] == [first.pid]
    assert daemon_project.command("stop").returncode == 0
    assert daemon_project.files() == []
    assert not is_alive(first.pid)


def test_the_daemon_is_no_child_and_has_no_terminal(running: DaemonProject) -> None:
    address = running.start()
    process = psutil.Process(address.pid)
    assert process.ppid() != os.getpid()
    assert os.getsid(address.pid) != os.getsid(0)
    assert process.terminal() is None
    assert process.cwd() == "/"


def test_the_token_is_in_no_log_argument_or_environment(daemon_project: DaemonProject) -> None:
    address = daemon_project.start(AGENT_POOL_LOG="debug")
    daemon_project.status()
    process = psutil.Process(address.pid)
    assert len(address.token) >= 40
    assert address.token not in " ".join(process.cmdline())
    assert address.token not in " ".join(process.environ().values())
    assert address.token not in repr(address)
    daemon_project.stop()
    assert address.token not in daemon_project.log()
    other = daemon_project.start()
    assert other.token != address.token
    daemon_project.stop()


def test_many_starters_at_once_share_one_daemon(daemon_project: DaemonProject) -> None:
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(daemon_project.start()))
        for _ in range(MANY_STARTERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({address.pid for address in found}) == 1
    assert len(found) == MANY_STARTERS
    # Those that came too late have ended without a word.
    blocking_wait(lambda: len(daemon_project.daemons()) == 1)
    assert "ERROR" not in daemon_project.log().upper()
    daemon_project.stop()


def test_a_killed_daemon_leaves_files_that_the_next_replaces(
    daemon_project: DaemonProject,
) -> None:
    first = daemon_project.start()
    os.kill(first.pid, signal.SIGKILL)
    wait_gone(first.pid)
    assert daemon_project.files() == ["daemon.json", "http.sock", "mcp.sock"]
    # Its threads end after its first one, and hold the lock for a moment longer.
    blocking_wait(lambda: daemon_project.address() is None)
    second = daemon_project.start()
    assert second.pid != first.pid
    assert daemon_project.status()["pid"] == second.pid
    daemon_project.stop()


def test_an_address_of_a_dead_daemon_is_not_used_while_another_starts(
    daemon_project: DaemonProject,
) -> None:
    dead = daemon_project.start()
    os.kill(dead.pid, signal.SIGKILL)
    blocking_wait(lambda: daemon_project.address() is None)
    environ = daemon_project.daemon_environment()
    # As another one that has the lock and has not removed the old file yet.
    with (daemon_project.runtime / runtime.LOCK_FILE).open("r+") as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        assert runtime.find_daemon(environ) == dead
        assert client.usable_daemon(environ) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_every_signal_ends_an_unused_daemon_without_a_trace(
    daemon_project: DaemonProject, number: signal.Signals
) -> None:
    address = daemon_project.start()
    os.kill(address.pid, number)
    wait_gone(address.pid)
    assert daemon_project.files() == []
    assert daemon_project.processes() == []
    assert "has ended" in daemon_project.log()
    assert "ERROR" not in daemon_project.log()


def test_an_unused_daemon_ends_by_itself(daemon_project: DaemonProject) -> None:
    daemon_project.configure(daemon_idle="300ms")
    address = daemon_project.start()
    wait_gone(address.pid)
    assert daemon_project.files() == []
    assert "nobody uses it" in daemon_project.log()


def test_an_open_connection_keeps_the_daemon_alive(daemon_project: DaemonProject) -> None:
    daemon_project.configure(daemon_idle="300ms")
    address = daemon_project.start()
    with client.connect(address) as connection:
        # Its head timer closes a silent one; one that asks stays for a while.
        for _ in range(10):
            connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.recv(65536)
            threading.Event().wait(0.1)
        assert is_alive(address.pid)
    wait_gone(address.pid)


def test_a_daemon_that_stays_does_not_end_when_idle(daemon_project: DaemonProject) -> None:
    daemon_project.configure(daemon_idle="100ms")
    process = daemon_project.begin("run", "--stay")
    blocking_wait(daemon_project.address)
    with pytest.raises(TimeoutError):
        wait_gone(process.pid, within=1.0)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "serves" in output


def test_a_second_daemon_in_the_foreground_says_that_one_runs(running: DaemonProject) -> None:
    address = running.start()
    done = running.command("run")
    assert done.returncode != 0
    assert "runs already" in done.stderr
    assert running.address() == address


def test_a_second_daemon_ends_before_it_loads_its_parts(running: DaemonProject) -> None:
    running.start()
    environ = running.daemon_environment(PYTHONPROFILEIMPORTTIME="1")
    imported = running.command("run", environ=environ).stderr
    assert "agent_pool.daemon.lock" in imported
    assert "agent_pool.daemon.server" not in imported
    assert "pydantic" not in imported


def test_a_daemon_loads_nothing_that_only_some_clients_need(running: DaemonProject) -> None:
    code = "import sys, agent_pool.daemon.server; print(*sys.modules)"
    environ = running.daemon_environment()
    loaded = subprocess.check_output([sys.executable, "-c", code], env=environ, text=True)
    assert {"mcp", "mcp_types", "jinja2", "prometheus_client"} & set(loaded.split()) == set()


# What can be wrong


def make_link(project: DaemonProject) -> None:
    target = project.root / "elsewhere"
    target.mkdir(mode=0o700)
    project.runtime.symlink_to(target)


def make_foreign(project: DaemonProject) -> None:
    project.runtime.mkdir(mode=0o700)
    os.chown(project.runtime, 65534, 65534)


def make_foreign_holder(project: DaemonProject) -> None:
    os.chown(project.runtime.parent, 65534, 65534)


def make_file(project: DaemonProject) -> None:
    project.runtime.write_text("no folder")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("make", [make_link, make_foreign, make_foreign_holder, make_file])
def test_a_runtime_folder_of_others_is_refused_with_its_name(
    daemon_project: DaemonProject, make: Callable[[DaemonProject], None]
) -> None:
    make(daemon_project)
    with pytest.raises(ConfigError, match=str(daemon_project.runtime.parent)):
        daemon_project.start()
    done = daemon_project.command("run")
    assert done.returncode == 3
    assert str(daemon_project.runtime.parent) in done.stderr


def test_a_runtime_folder_that_cannot_be_made_is_named(daemon_project: DaemonProject) -> None:
    environ = daemon_project.daemon_environment(AGENT_POOL_RUNTIME_DIR="/proc/agent-pool")
    with pytest.raises(ConfigError, match="/proc/agent-pool"):
        client.ensure_daemon(environ)


def test_an_address_file_that_others_can_read_is_not_used(running: DaemonProject) -> None:
    address = running.start()
    path = running.runtime / runtime.ADDRESS_FILE
    path.chmod(0o644)
    # A child that was forked just then holds the lock until it runs its own program.
    blocking_wait(lambda: running.address() is None)
    path.chmod(0o600)
    assert running.address() == address


def test_a_port_that_is_taken_is_named_with_its_setting(daemon_project: DaemonProject) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon_project.configure(daemon_port=port)
        with pytest.raises(DaemonUnavailable) as raised:
            daemon_project.start()
    message = str(raised.value)
    assert f"127.0.0.1:{port}" in message
    assert "daemon_port" in message
    assert str(daemon_project.state / client.LOG_NAME) in message
    assert daemon_project.files() == []


def test_a_broken_settings_file_is_shown_to_the_starter(daemon_project: DaemonProject) -> None:
    daemon_project.settings_file.write_text("max_size = 0")
    with pytest.raises(DaemonUnavailable, match="max_size"):
        daemon_project.start()


def test_a_path_that_is_too_long_for_a_socket_is_named(
    daemon_project: DaemonProject, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 100)
    with pytest.raises(DaemonUnavailable, match="AGENT_POOL_RUNTIME_DIR"):
        daemon_project.start(AGENT_POOL_RUNTIME_DIR=str(long))


def test_a_process_of_a_worker_never_starts_a_daemon(daemon_project: DaemonProject) -> None:
    with pytest.raises(DaemonUnavailable, match="process of a worker"):
        daemon_project.start(AGENT_POOL_DEPTH="1")
    assert daemon_project.processes() == []
    assert not daemon_project.runtime.exists()


# Other settings and other versions


def test_a_daemon_with_other_settings_is_left_alone(running: DaemonProject) -> None:
    address = running.start()
    with pytest.raises(DaemonUnavailable, match=f"pid {address.pid}.*other settings"):
        running.start(AGENT_POOL_MAX_SIZE="1")
    assert running.address() == address


def test_an_edited_settings_file_replaces_the_daemon(daemon_project: DaemonProject) -> None:
    first = daemon_project.start()
    daemon_project.configure(max_size=2)
    second = daemon_project.start()
    assert second.pid != first.pid
    wait_gone(first.pid)
    assert daemon_project.start() == second
    daemon_project.stop()


def test_only_an_older_version_of_the_daemon_is_replaced(
    daemon_project: DaemonProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = daemon_project.start()
    environ = daemon_project.daemon_environment()
    assert client.ensure_daemon(environ, version="0.0.9") == first
    assert client.ensure_daemon(environ, version=first.version) == first
    claimed = [*first.version.split(".")[:-1], "1000"]
    # The started one has this package's version again, so it must not be asked for twice.
    monkeypatch.setattr(client, "MOST_STARTS", 1)
    with pytest.raises(DaemonUnavailable):
        client.ensure_daemon(environ, timeout=5, version=".".join(claimed))
    wait_gone(first.pid)
    daemon_project.end()


def test_versions_are_compared_by_their_numbers() -> None:
    assert client.is_older("0.9.1", "0.10.0")
    assert client.is_older("0.1", "0.1.1")
    assert not client.is_older("0.10.0", "0.9.1")
    assert not client.is_older("1.0", "1.0")


# Commands


def test_status_says_what_runs_and_hides_the_token(daemon_project: DaemonProject) -> None:
    none = daemon_project.command("status")
    assert none.returncode == 3
    assert json.loads(daemon_project.command("status", "--json").stdout) == {"running": False}
    started = daemon_project.command("start")
    address = daemon_project.address()
    assert address is not None
    assert f"pid {address.pid}" in started.stdout
    shown = daemon_project.command("status")
    assert shown.returncode == 0
    for text in (str(address.pid), address.url, address.http_socket, "MiB"):
        assert text in shown.stdout
    values = json.loads(daemon_project.command("status", "--json").stdout)
    assert values["running"] is True
    assert values["memory"]["daemon"] > 1 << 20
    for output in (started.stdout, shown.stdout, json.dumps(values)):
        assert address.token not in output
    stopped = daemon_project.command("stop")
    assert f"pid {address.pid}" in stopped.stdout
    assert daemon_project.command("stop").stdout == "No daemon runs.\n"


def test_logs_prints_the_end_of_the_log_and_follows_it(daemon_project: DaemonProject) -> None:
    daemon_project.start()
    shown = daemon_project.command("logs", "-n", "1")
    assert "serves" in shown.stdout
    follower = daemon_project.begin("logs", "--follow", "-n", "0")
    try:
        assert follower.stdout is not None
        blocking_wait(lambda: psutil.Process(follower.pid).num_threads())
        path = daemon_project.state / client.LOG_NAME
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.append(follower.stdout.readline()))
        reader.start()

        def write() -> bool:
            with path.open("a") as file:
                file.write("a new line\n")
            return bool(lines)

        blocking_wait(write)
        assert lines == ["a new line\n"]
    finally:
        follower.kill()
        follower.communicate()
        daemon_project.stop()


def test_install_prints_a_unit_that_runs_this_python(
    daemon_project: DaemonProject, tmp_path: Path
) -> None:
    environ = daemon_project.daemon_environment(
        XDG_CONFIG_HOME=str(tmp_path / "config"), AGENT_POOL_MAX_SIZE="2", PATH=os.environ["PATH"]
    )
    unit = daemon_project.command("install", "--print", environ=environ).stdout
    assert '"-m" "agent_pool" "daemon" "run" "--stay"' in unit
    assert 'Environment="AGENT_POOL_MAX_SIZE=2"' in unit
    assert "ANTHROPIC_API_KEY" not in unit
    assert not (tmp_path / "config").exists()


def test_uninstall_removes_what_install_wrote(
    daemon_project: DaemonProject, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    # Without a service manager: only the file is written.
    environ = daemon_project.daemon_environment(XDG_CONFIG_HOME=str(config), PATH="/nonexistent")
    printed = daemon_project.command("install", "--print", environ=environ).stdout
    installed = daemon_project.command("install", environ=environ)
    path = config / "systemd" / "user" / "agent-pool.service"
    assert path.read_text() == printed
    assert "there is no systemctl" in installed.stdout
    assert daemon_project.command("uninstall", environ=environ).returncode == 0
    assert not path.exists()
    assert "nothing to undo" in daemon_project.command("uninstall", environ=environ).stdout
