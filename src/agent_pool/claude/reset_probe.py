"""The reset probe: does this binary, with these options, really forget, and by which way?

A new session id proves nothing: 2.1.117 to 2.1.124 gave one and sent the old messages again. The
only proof is the next request. So the probe starts a process of its own against the offline model
in a temporary home and gives it a random word (the canary). It sends `/clear` and another task. If
the word is in the next request, the binary does not forget. Then it takes the second task back and
gives a third one, whose request must be equal to that of the second but for the word. Last the
process becomes another agent with other tools, and the first one again: the other's request must
hold nothing of the first, and the first's must be as it was. A second process waits for its claim,
is claimed for the folder of the first one and gets a task: its request must be equal to the first.

A probe takes about a second, no tokens and no network. Its verdict is kept in the user's cache
folder, by everything that could change it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import secrets
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent_pool.agents import Agent
from agent_pool.claude.launch import LaunchConfig
from agent_pool.claude.offline import offline_environment
from agent_pool.claude.private_files import read_own
from agent_pool.claude.protocol.states import SessionState
from agent_pool.claude.roles import compose_role
from agent_pool.claude.watchdog import Watchdog
from agent_pool.claude.watchdog_script import folder_prefix
from agent_pool.claude.worker import UNPROBED, ClaimError, Worker
from agent_pool.errors import AgentPoolError, SpawnError
from agent_pool.models import ResetVerdict
from agent_pool.settings import Settings

if TYPE_CHECKING:
    from agent_pool.loopback import LoopbackAPI

log = logging.getLogger("agent_pool")

PROBE_TIMEOUT: Final = 60.0
"""Seconds for a whole probe; one takes about a second on an idle machine."""
MORE_TIMEOUT: Final = 30.0
"""Seconds for the part of it that comes after the proof that `/clear` forgets."""
_EDITION: Final = 6
"""Part of the key of kept verdicts: another number makes all of them void."""
_PROBE_FAILED: Final = "the probe failed"

_REWINDS: Final = "after a rewind it sent nothing of the earlier task"
_ATTRIBUTION: Final = re.compile(r"x-anthropic-billing-header[^\"]*")
"""A line of the system prompt that holds a hash of the conversation's first words."""

_ASSUMED: Final = ResetVerdict(True, False, "assumed")
TRUSTED: Final = ResetVerdict(
    True, False, "not probed: setting reset = clear", switches=True, claims=True
)

_PROMPT: Final = "You keep words."
_OTHER_PROMPT: Final = "You lose words."
_OTHER_TOOLS: Final = ("Read",)
_FIRST_ALONE: Final = "Bash"
"""A tool that the first agent has and the other has not."""


class ResetProbe:
    """The verdicts that a pool needs, each found once.

    Args:
        settings: `reset` says whether to probe at all.
        environ: names the cache folder.
        watchdog: the pool's watchdog, which starts the probes' processes.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str], watchdog: Watchdog) -> None:
        self._settings = settings
        self._watchdog = watchdog
        self._folder = cache_folder(environ) / "verdicts"
        self._probes: dict[str, asyncio.Task[ResetVerdict]] = {}

    def begin(self, launch: LaunchConfig) -> None:
        """Start to find the verdict on this launch in the background, unless it is known."""
        key = verdict_key(launch)
        if self._settings.reset == "auto" and key not in self._probes:
            self._probes[key] = asyncio.get_running_loop().create_task(
                self._find(key, launch), name="agent-pool probe"
            )

    async def get(self, launch: LaunchConfig) -> ResetVerdict:
        """Return the verdict on this launch; wait for the probe, at most `PROBE_TIMEOUT` seconds.

        A probe that cannot run counts as a binary that does not forget.
        """
        if self._settings.reset == "clear":
            return TRUSTED
        self.begin(launch)
        # Several workers can wait for one probe: the end of one of them must not cancel it.
        return await asyncio.shield(self._probes[verdict_key(launch)])

    def known(self, launch: LaunchConfig) -> ResetVerdict:
        """Return the verdict on this launch if this pool has it already, else `UNPROBED`."""
        if self._settings.reset == "clear":
            return TRUSTED
        probe = self._probes.get(verdict_key(launch))
        is_known = probe is not None and probe.done() and not probe.cancelled()
        return probe.result() if probe is not None and is_known else UNPROBED

    async def close(self) -> None:
        """Cancel the probes that still run, and wait for their end."""
        probes = list(self._probes.values())
        for probe in probes:
            probe.cancel()
        # Waited for: a probe ends its process while it is cancelled.
        if probes:
            await asyncio.wait(probes, timeout=PROBE_TIMEOUT)

    async def refresh(self, launch: LaunchConfig) -> ResetVerdict:
        """Probe again, and replace the kept verdict; the pool need not be open."""
        watchdog = Watchdog(secrets.token_hex(8))
        try:
            verdict = await self._run(launch, watchdog)
        finally:
            watchdog.dismiss(self._settings.kill_grace)
        self._keep(verdict_key(launch), launch, verdict)
        return verdict

    def kept(self, launch: LaunchConfig) -> ResetVerdict | None:
        """Return the kept verdict on this launch; `None` if there is no verdict yet."""
        return self._read(verdict_key(launch))

    async def _find(self, key: str, launch: LaunchConfig) -> ResetVerdict:
        verdict = self._read(key)
        if verdict is None:
            verdict = await self._run(launch, self._watchdog)
            self._keep(key, launch, verdict)
        if not verdict.forgets:
            log.warning(
                "%s (%s) cannot be trusted to reset: %s; each task gets a process of its own",
                launch.argv[0],
                launch.version,
                verdict.reason,
            )
        return verdict

    async def _run(self, launch: LaunchConfig, watchdog: Watchdog) -> ResetVerdict:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                return await probe_reset(launch, self._settings, watchdog)
        except (AgentPoolError, OSError, TimeoutError) as error:
            return _does_not_forget(f"{_PROBE_FAILED}: {error!r}")

    def _read(self, key: str) -> ResetVerdict | None:
        path = self._folder / f"{key}.json"
        try:
            kept = json.loads(read_own(path))
            verdict = ResetVerdict.from_json(kept)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # ConfigError, for wrong JSON, is a ValueError too
            log.warning("the kept verdict %s is not used: %s", path, error)
            return None
        # Of exactly these types: a text such as "no" must not count as true.
        fields = verdict.as_json().items()
        is_exact = all(type(kept.get(name, value)) is type(value) for name, value in fields)
        return verdict if is_exact else None

    def _keep(self, key: str, launch: LaunchConfig, verdict: ResetVerdict) -> None:
        if _PROBE_FAILED in verdict.reason:
            return  # the next pool tries again
        kept = {"cli": launch.argv[0], "version": launch.version, **verdict.as_json()}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Others who can write here could say that a binary forgets. With some umasks a new
            # folder is writable for a group.
            self._folder.chmod(0o700)
            # Replaced in one step: another pool can read the file at the same moment.
            with tempfile.NamedTemporaryFile(
                "w", dir=self._folder, delete=False, encoding="utf-8"
            ) as file:
                json.dump(kept, file)
            Path(file.name).replace(self._folder / f"{key}.json")
        except OSError as error:  # only a cache: without the file the next pool probes again
            log.warning("the verdict on %s cannot be kept: %s", launch.argv[0], error)


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return this user's cache folder: by the XDG rules on Linux, in Library on macOS."""
    if named := environ.get("XDG_CACHE_HOME"):
        return Path(named) / "agent-pool"
    home = Path(environ.get("HOME") or Path.home())
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "agent-pool"


def verdict_key(launch: LaunchConfig) -> str:
    """Return a text that is equal for launches of the same binary with the same options."""
    # Links are followed: an update can change only the target of `claude`.
    path = Path(launch.argv[0]).resolve()
    try:
        status = path.stat()
        changed = status.st_size, status.st_mtime_ns
    except OSError:  # an update has removed it; its running processes go on
        changed = 0, 0
    parts = [_EDITION, str(path), *changed, launch.version]
    return hashlib.sha256(json.dumps([*parts, *launch.argv[1:]]).encode()).hexdigest()[:32]


async def probe_reset(launch: LaunchConfig, settings: Settings, watchdog: Watchdog) -> ResetVerdict:
    """Start a process with these options, give it words, and read which of them it sends later.

    Raises:
        AgentPoolError, OSError: the probe could not be carried out.
    """
    # Imported here: the model's web server takes 0.2 s to load, and a kept verdict needs none.
    from agent_pool.loopback import LoopbackAPI

    # By this name the watchdog finds the folder if the pool is killed.
    with tempfile.TemporaryDirectory(prefix=folder_prefix(watchdog.cookie)) as folder:
        async with LoopbackAPI() as api:
            worker = _probe_worker(launch, settings, watchdog, Path(folder), api.url)
            try:
                await worker.start()
                experiment = _Experiment(worker, api)
                verdict = await experiment.try_clear()
                if not verdict.forgets:
                    return verdict
                verdict = await _find_more(experiment, verdict)
                claims = await _claims(experiment, settings, watchdog)
                return replace(verdict, claims=claims)
            finally:
                await worker.stop()


async def _find_more(experiment: _Experiment, verdict: ResetVerdict) -> ResetVerdict:
    """Add to a verdict what else is found out; a failure leaves it as it is."""
    try:
        async with asyncio.timeout(MORE_TIMEOUT):
            return await experiment.try_more(verdict)
    except (AgentPoolError, TimeoutError) as error:
        # That `/clear` forgets is proved all the same.
        return replace(verdict, reason=f"{verdict.reason}; later {_PROBE_FAILED}: {error!r}")


async def _claims(experiment: _Experiment, settings: Settings, watchdog: Watchdog) -> bool:
    """Find out whether a claimed process sends what a process sends that started in the folder."""
    launch = experiment.worker.launch
    if launch.role is None:
        return False
    parked = replace(launch, role=None, awaits_claim=True)
    spare = Worker(
        "claimed",
        parked,
        settings,
        cookie=_new_cookie(watchdog),
        watchdog=watchdog,
        run_dir=launch.cwd,
    )
    try:
        async with asyncio.timeout(MORE_TIMEOUT):
            await spare.start()
            await spare.become(launch)
            return await experiment.is_first_task(spare)
    except (AgentPoolError, ClaimError, TimeoutError):
        return False
    finally:
        await spare.stop()


class _Experiment:
    """Tasks of one process, and what it sent to the model for each."""

    def __init__(self, worker: Worker, api: LoopbackAPI) -> None:
        self.worker = worker
        self._api = api
        self._words: list[str] = []

    async def try_clear(self) -> ResetVerdict:
        """Find out whether `/clear` forgets.

        Raises:
            SpawnError: it was not answered at all, which proves nothing about the binary.
        """
        first = self._first = await self._ask("The word is {}.")
        # No announcement is required yet: the verdict says whether this CLI announces.
        if await self.worker.reset(_ASSUMED) is None:
            return _refused_verdict(self.worker)
        announces = self.worker.session.announced_reset
        second = await self._ask("The word is {}.")
        # If the word was never sent, its absence later proves nothing.
        if not (self._word_in(first, 0) and second):
            return _does_not_forget("it did not ask the model at all")
        if self._word_in(second, 0):
            return _does_not_forget("after /clear it sent the earlier conversation again")
        # Without stamps a late result can be taken for the result of the next task.
        if not self.worker.session.stamps_results:
            return _does_not_forget("its results do not name the tasks that they answer")
        return ResetVerdict(
            forgets=True,
            announces=announces,
            reason="after /clear it sent nothing of the earlier task",
            stamps_results=True,
            stamps_turns=self.worker.session.stamps_turns,
        )

    async def try_more(self, verdict: ResetVerdict) -> ResetVerdict:
        """Find out whether a rewind forgets as well, and whether prompts can be sent as text."""
        second = self._requests
        if await self.worker.reset(replace(verdict, rewinds=True)) != "rewind":
            return verdict
        third = await self._ask("The word is {}.")
        # Some versions say that they rewound and send the earlier task again (2.1.197 to 2.1.245);
        # others do not tell again what they tell once a process (2.1.260 to 2.1.300).
        if not third or self._masked(second) != self._masked(third):
            return verdict
        verdict = replace(verdict, rewinds=True, reason=_REWINDS)
        if await self.worker.reset(verdict) != "rewind":
            return verdict
        # Before prompts are sent as text, which would make the requests differ.
        verdict = replace(verdict, switches=await self._switches(verdict, second))
        if self.worker.session.state is SessionState.USED:
            await self.worker.reset(verdict)
        if not self.worker.is_clean:
            return verdict
        self.worker.assume(replace(verdict, verbatim=True))
        # A CLI that does not know such prompts runs the command, and asks no model.
        command = await self._ask("/clear {}")
        is_verbatim = self._word_in(command, -1) and "/clear" in str(command)
        return replace(verdict, verbatim=is_verbatim)

    async def _switches(self, verdict: ResetVerdict, as_it_was: list[Mapping[str, Any]]) -> bool:
        """Find out whether the process can become another agent that sends nothing of the first.

        Args:
            verdict: what is known so far.
            as_it_was: the requests of a task after `/clear`, before it became another agent.

        Raises:
            SpawnError: it refused to become the other agent.
        """
        first = self.worker.launch
        if first.role is None:
            return False
        settings = Settings(project_dir=first.cwd)
        role = compose_role(_agent(_OTHER_PROMPT, first.cwd, _OTHER_TOOLS), settings, None)
        await self.worker.become(replace(first, role=role))
        other = await self._ask("The word is {}.")
        is_other = other and all(
            _OTHER_PROMPT in str(body.get("system"))
            and _PROMPT not in str(body)
            and _FIRST_ALONE not in {tool.get("name") for tool in body.get("tools") or ()}
            for body in other
        )
        if not is_other or await self.worker.reset(verdict) is None:
            return False
        await self.worker.become(first)
        again = await self._ask("The word is {}.")
        return bool(again) and self._masked(again) == self._masked(as_it_was)

    async def is_first_task(self, other: Worker) -> bool:
        """Give a task to another process; check whether it sends what this one sent first."""
        self.worker = other
        asked = await self._ask("The word is {}.")
        return bool(asked) and self._masked(asked) == self._masked(self._first)

    async def _ask(self, text: str) -> list[Mapping[str, Any]]:
        """Give it a task with a new word; return the bodies of the requests that it sent."""
        # Each word has the same length, so the requests can be compared.
        self._words.append(f"canary-{secrets.token_hex(8)}")
        before = len(self._api.requests)
        await self.worker.turn(text.format(self._words[-1]))
        self._requests = [request.body for request in list(self._api.requests)[before:]]
        return self._requests

    def _word_in(self, requests: list[Mapping[str, Any]], index: int) -> bool:
        # The whole request: a system message or a tool must not contain the word either.
        return self._words[index] in str(requests)

    def _masked(self, requests: list[Mapping[str, Any]]) -> str:
        """Return requests as text, without what differs between two equal tasks."""
        bodies = [
            {name: value for name, value in body.items() if name != "metadata"} for body in requests
        ]
        text = _ATTRIBUTION.sub("", json.dumps(bodies, sort_keys=True))
        # Only the last word: an earlier one in these requests must make a difference.
        newest = max(self._words, key=text.rfind)
        return text.replace(newest, "canary")


def _does_not_forget(reason: str) -> ResetVerdict:
    return ResetVerdict(forgets=False, announces=False, reason=reason)


def _refused_verdict(worker: Worker) -> ResetVerdict:
    """Return the verdict on a reset that was answered and failed.

    Raises:
        SpawnError: it was not answered at all, which proves nothing about the binary.
    """
    reason = "; ".join(worker.taints) or "the process ended"
    if worker.has_ended or worker.session.state is SessionState.RESETTING:
        raise SpawnError(f"the probe's process did not answer /clear: {reason}")
    return _does_not_forget(reason)


def _probe_worker(
    launch: LaunchConfig, settings: Settings, watchdog: Watchdog, folder: Path, url: str
) -> Worker:
    """Return a worker with these options that can reach only the offline model."""
    env = offline_environment(launch, folder, url)
    probed = replace(launch, env=env, cwd=folder, mcp_config="", prompt=_PROMPT)
    # The launch of a spare has the same options.
    probed = replace(probed, awaits_claim=False)
    if launch.takes_roles:
        agent = _agent(_PROMPT, folder)
        role = compose_role(agent, settings, None)
        probed = replace(probed, role=role)
    cookie = _new_cookie(watchdog)
    return Worker("canary", probed, settings, cookie=cookie, watchdog=watchdog, run_dir=folder)


def _new_cookie(watchdog: Watchdog) -> str:
    # Two probes can run at once, and the end of one kills every process with its cookie.
    return f"{watchdog.cookie}/canary-{secrets.token_hex(4)}"


def _agent(prompt: str, folder: Path, tools: tuple[str, ...] | None = None) -> Agent:
    return Agent(name="canary", description="", prompt=prompt, path=folder, tools=tools)
