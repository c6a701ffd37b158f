"""Measures memory and time of one lean and one fast worker, and of the pool's own process.

    python -m benchmarks memory [--workload output] [--tasks 500] [--set max_rss=none ...]

The two workers take turns, task by task, so that the noise of the machine affects both alike. The
pool runs in a process of its own, ``python -m benchmarks.memory WORKLOAD TASKS SETTING=VALUE…``, so
that its size is not that of the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click
import psutil

from agent_pool import AgentPool, Settings, TaskFailed, find_cli, load_settings
from agent_pool.cli.command import Command, Terminated, load_command_settings, run_async
from agent_pool.cli.offline import offline_sandbox
from agent_pool.loopback import ModelReply, ModelRequest, Script, ToolUseBlock
from benchmarks.method_process import END_TIMEOUT_SECONDS, python_environ

AGENTS: Final = ("lean", "fast")
"""The agents' names, which are also the values of their field `workerMemory`."""
SETTINGS: Final = {
    **dict.fromkeys(("max_tasks", "max_lifetime", "max_idle", "max_rss"), "none"),
    "max_size": "1",
    "spares": "0",
}
"""One worker for each agent, which is never replaced."""
WARM_UP_TASKS: Final = 10
"""The first tasks, whose times are not counted if there are more."""
MIB: Final = 1 << 20
_LINE: Final = "This line belongs to a text that every request of the conversation repeats.\n"


@dataclass(frozen=True, slots=True)
class Workload:
    """The tasks that both workers carry out.

    Attributes:
        steps: the calls in each of the model's replies but the last one, which ends the task.
        delay: seconds before each reply.
        task_bytes: the size of a task's text.
        files: the project's files, without the agents.
    """

    steps: Sequence[Sequence[ToolUseBlock]]
    delay: float = 0.0
    task_bytes: int = 0
    files: dict[str, str] = field(default_factory=dict)

    def task(self, number: int) -> str:
        """Return the text of a task; its first words differ from those of the next one."""
        return f"task {number}\n{_LINE * (self.task_bytes // len(_LINE))}"

    def reply(self, request: ModelRequest) -> ModelReply:
        """Return the calls of the next step, or the answer after the last step."""
        done = sum(message["role"] == "assistant" for message in request.messages)
        content = list(self.steps[done]) if done < len(self.steps) else "done"
        return ModelReply(content, delay=self.delay)


def _shell(command: str) -> ToolUseBlock:
    return ToolUseBlock("Bash", {"command": command, "description": "Measures."})


WORKLOADS: Final = {
    "output": Workload([[_shell("seq 1 60000")]] * 3),
    "slow": Workload(
        [
            [_shell("seq 1 11000"), _shell("cat notes.txt"), _shell("ls -la /usr/bin")],
            [_shell("seq 1 11000"), _shell("head -c 20000 notes.txt"), _shell("ls -la /etc")],
        ],
        delay=1.0,
        files={"CLAUDE.md": _LINE * 520, "notes.txt": _LINE * 400},
    ),
    "long": Workload([[_shell("seq 1 2000")]] * 8, delay=1.0, task_bytes=400_000),
}


def _parse_overrides(
    ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    for value in values:
        if "=" not in value:
            raise click.BadParameter(f"{value!r}: expected SETTING=VALUE")
    return values


@click.command(cls=Command)
@click.option(
    "--workload",
    type=click.Choice([*WORKLOADS]),
    default="output",
    help="The kind of tasks. Default: output.",
)
@click.option("--tasks", type=click.IntRange(min=1), default=500, help="Tasks. Default: 500.")
@click.option(
    "--set",
    "overrides",
    callback=_parse_overrides,
    multiple=True,
    metavar="SETTING=VALUE",
    help="A setting of the pool, for example max_rss=300MiB. Can be given several times.",
)
@click.pass_context
def memory(ctx: click.Context, workload: str, tasks: int, overrides: tuple[str, ...]) -> None:
    """Measure the memory of a lean and of a fast worker over many tasks.

    Two real Claude Code processes run the same tasks in turns, and each is reset after each of its
    tasks. The limits that would replace the workers are off; --set switches them on.

    \b
    Workloads:
      output  three calls of the shell with 340 KB of output each; the model answers at once
      slow    six calls with 20 to 60 KB of output and a CLAUDE.md of 40 KB; the model takes a
              second for each of its three replies
      long    a task of 400 KB and eight calls with 9 KB of output each; the model takes a second
              for each of its nine replies

    \b
    Example:
      python -m benchmarks memory
      python -m benchmarks memory --workload slow --tasks 60
      python -m benchmarks memory --tasks 100 --set max_rss=300MiB
    """
    settings = load_command_settings(ctx, None)
    _with_overrides(settings, overrides)  # so that a wrong setting is one message of this program
    run_async(_run_pool(find_cli(settings), workload, tasks, overrides))


def _with_overrides(settings: Settings, overrides: Sequence[str]) -> Settings:
    given = dict(pair.split("=", 1) for pair in overrides)
    return settings.with_overrides({**SETTINGS, **given})


async def _run_pool(cli: Path, workload: str, tasks: int, overrides: Sequence[str]) -> None:
    """Run the pool in its own process until all tasks have ended.

    Raises:
        TaskFailed: the process ended with an error, which it has printed.
    """
    work = WORKLOADS[workload]
    script: Script = work.reply
    async with offline_sandbox(cli, {**work.files, **agent_files()}, script) as sandbox:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.memory", workload, str(tasks), *overrides),
            env=python_environ(sandbox),
            cwd=sandbox.settings.project_dir,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches this program alone, which then ends the pool
        )
        try:
            if code := await process.wait():
                raise TaskFailed(f"the pool's process ended with {code}")
        finally:
            await end_process(process)


def agent_files() -> dict[str, str]:
    """Return the definitions of the agents by path."""
    return {
        f".claude/agents/{name}.md": f"---\nname: {name}\ntools: Bash\nworkerMemory: {name}\n---\n"
        "You test.\n"
        for name in AGENTS
    }


async def end_process(process: asyncio.subprocess.Process) -> None:
    """End the pool's process if it still runs; it then ends its own processes."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), END_TIMEOUT_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


# In the pool's own process


@dataclass(slots=True)
class TaskTimes:
    """The seconds of one agent's tasks: until the answer, and of the CLI's processor time."""

    times: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def as_row(self, name: str) -> str:
        """Return the figures without those of the first tasks."""
        skipped = WARM_UP_TASKS if len(self.times) > WARM_UP_TASKS else 0
        times, processor = self.times[skipped:], self.processor[skipped:]
        cells = (statistics.median(times), min(times), statistics.mean(processor or [0.0]))
        return f"{name:6}" + "".join(f"{1000 * seconds:>13.0f} ms" for seconds in cells)


async def run_tasks(workload: str, tasks: int, overrides: Sequence[str]) -> None:
    """Run the tasks; print the memory after the first ones and every hundredth, then the times."""
    settings = _with_overrides(load_settings(), overrides)
    taken = {name: TaskTimes() for name in AGENTS}
    async with AgentPool(settings) as pool:
        for name in AGENTS:
            await pool.warmup(name)
        click.echo("task   agent   worker   memory of its tree   memory of the pool's process")
        for number in range(1, tasks + 1):
            for name in AGENTS:
                await _run_task(pool, name, WORKLOADS[workload].task(number), taken[name])
            if number in (1, 10, 50) or number % 100 == 0 or number == tasks:
                await _report(number, pool)
    click.echo("\nagent    median time    fastest time   processor time of the CLI for a task")
    for name in AGENTS:
        click.echo(taken[name].as_row(name))


async def _run_task(pool: AgentPool, agent: str, task: str, taken: TaskTimes) -> None:
    """Run a task, wait until its worker is reset, and note its times."""
    before = {worker.pid: processor_seconds(worker.pid) for worker in await pool.workers()}
    began = time.monotonic()
    result = await pool.invoke(agent, task)
    taken.times.append(time.monotonic() - began)
    result.raise_for_error()
    # The other agent's task must not share the processor with this one's reset.
    while set((await pool.stats()).workers) - {"idle"}:  # noqa: ASYNC110 - not an event
        await asyncio.sleep(0.002)
    # A worker that was started for this task or stopped after it is left out.
    if result.pid in before and psutil.pid_exists(result.pid):
        taken.processor.append(processor_seconds(result.pid) - before[result.pid])


def processor_seconds(pid: int | None) -> float:
    """Return the processor time of a process itself, without that of its children."""
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


async def _report(number: int, pool: AgentPool) -> None:
    gc.collect()  # so that garbage does not look like growth
    own = psutil.Process().memory_info().rss
    for worker in await pool.workers():
        click.echo(
            f"{number:4}   {worker.agent:7} {worker.worker:8} {worker.rss / MIB:13.0f} MiB "
            f"{own / MIB:22.1f} MiB"
        )


if __name__ == "__main__":
    with contextlib.suppress(Terminated):
        run_async(run_tasks(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
