"""`agent-pool run` at a terminal: its changing line, its end, and tasks as people type them."""

from __future__ import annotations

import signal
import subprocess

from agent_pool.loopback import LoopbackAPI, ToolUseBlock, call_tools
from support import fake_cli
from support.cli_runner import agent_pool, command, package_place
from support.fake_cli import Act
from support.pools import PoolProject
from support.project import TempProject
from support.terminals import ShownRun, terminal, until_closed, until_shown, useless_stderr

HASTY = {"AGENT_POOL_STOP_GRACE": "300ms", "AGENT_POOL_KILL_GRACE": "300ms"}


def environment(project: PoolProject, *acts: Act, **more: str) -> dict[str, str]:
    """Build an environment with a fake CLI that plays these acts."""
    fake_cli.install(project.fake, *acts)
    return project.fake_environment() | package_place() | HASTY | more


def test_the_line_of_a_start_has_one_running_clock(pool_project: PoolProject) -> None:
    environ = environment(
        pool_project, {"at": "initialize", "do": "hang"}, TERM="xterm", AGENT_POOL_LOG="info"
    )
    run = command("run", "tester", "quince")
    with terminal(run, environ, pool_project.root) as (process, screen):
        shown = until_shown(screen, b"tester, 0 s: starting a process")
        shown += until_shown(screen, b"tester, 1 s: starting a process")
        process.send_signal(signal.SIGINT)
        shown += until_closed(screen)
        assert process.wait() == 130
    done = ShownRun(130, shown.decode().replace("\r\n", "\n"))
    assert "queue" not in done.text
    assert "before it was ready" not in done.text
    assert done.lines[-1] == "stopped by SIGINT"


def test_a_task_that_begins_with_a_dash_reaches_the_agent(pool_project: PoolProject) -> None:
    task = "--help me, please: --quiet"
    environ = environment(pool_project)
    done = agent_pool(pool_project, "run", "tester", task, "-q", CLAUDE_CLI=environ["CLAUDE_CLI"])
    assert (done.returncode, done.stdout) == (0, f"echo: {task}\n"), done.stderr


def test_a_denial_without_ask_names_the_option(project: TempProject) -> None:
    project.agent("one", permissionMode="ask")
    script = call_tools(ToolUseBlock("Bash", {"command": f"touch {project.root / 'file'}"}))
    with LoopbackAPI(script).in_thread() as api:
        done = agent_pool(project, "run", "one", "x", url=api.url)
    assert done.returncode == 0
    assert "  one asked to use Bash, which was denied: --ask asks you, in a terminal" in (
        done.stderr.splitlines()
    )
    assert "(agent-pool run: --ask asks you, in a terminal)" in done.stdout
    assert not (project.root / "file").exists()


def test_a_stderr_whose_reader_has_gone_does_not_stop_a_task(pool_project: PoolProject) -> None:
    environ = environment(pool_project, AGENT_POOL_LOG="debug")
    with useless_stderr("reader gone") as stderr:
        done = subprocess.run(
            command("run", "tester", "quince"),
            cwd=pool_project.root,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=stderr,
            timeout=60,
        )
    assert (done.returncode, done.stdout) == (0, b"echo: quince\n")
