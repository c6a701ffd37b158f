"""Does this binary, with these flags, really forget at `/clear`? Asked once, then remembered.

A new session id proves nothing: some versions gave one and sent the old messages all the same. The
only proof is the next request. So a process of its own is started against the offline model in a
temporary home, told a canary word, cleared, and asked again; the verdict is whether the word was
still in what it sent. It costs a second, no tokens and no network, and is kept in the user's cache
folder by everything that could change it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from agent_pool.claude.launch import Launch
from agent_pool.claude.offline import offline_environment
from agent_pool.claude.states import State
from agent_pool.claude.watcher import folder_prefix
from agent_pool.claude.worker import Worker
from agent_pool.errors import AgentPoolError, SpawnError
from agent_pool.settings import Settings

log = logging.getLogger("agent_pool")

TIMEOUT: Final = 60.0
"""Seconds for a whole probe; one takes about a second on an idle machine."""
EDITION: Final = 2
"""Part of the key: another number makes all kept verdicts void."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a probe found.

    Attributes:
        forgets: `/clear` really forgets, so a worker may serve one task after another.
        announces: the CLI announces a reset by a `conversation_reset` frame.
        why: what was seen, in words.
    """

    forgets: bool
    announces: bool
    why: str


TRUSTED: Final = Verdict(forgets=True, announces=False, why="not probed: setting reset = clear")


class Verdicts:
    """The verdicts that a pool needs, each found once.

    Args:
        settings: `reset` says whether to probe at all.
        environ: names the cache folder.
        cookie: what the probes' processes bear in their environment.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str] = os.environ,
        cookie: str = "agent-pool-probe",
    ) -> None:
        self._settings = settings
        self._cookie = f"{cookie}/canary"
        self._folder = cache_folder(environ) / "verdicts"
        self._probes: dict[str, asyncio.Task[Verdict]] = {}

    def begin(self, launch: Launch) -> None:
        """Find the verdict on this launch in the background, if it is not known."""
        key = key_of(launch)
        if self._settings.reset == "auto" and key not in self._probes:
            self._probes[key] = asyncio.get_running_loop().create_task(
                self._find(key, launch), name="agent-pool probe"
            )

    async def get(self, launch: Launch) -> Verdict:
        """The verdict on this launch; waits for the probe, a minute at the most.

        A probe that cannot run counts as a binary that does not forget.
        """
        if self._settings.reset == "clear":
            return TRUSTED
        self.begin(launch)
        return await asyncio.shield(self._probes[key_of(launch)])

    async def close(self) -> None:
        """End the probes that still run."""
        probes = list(self._probes.values())
        for probe in probes:
            probe.cancel()
        if probes:
            await asyncio.wait(probes, timeout=TIMEOUT)

    async def refresh(self, launch: Launch) -> Verdict:
        """Probe again, whatever is kept."""
        key = key_of(launch)
        verdict = await self._probe(launch)
        self._keep(key, launch, verdict)
        return verdict

    def kept(self, launch: Launch) -> Verdict | None:
        """The kept verdict on this launch, if there is one."""
        return self._read(key_of(launch))

    async def _find(self, key: str, launch: Launch) -> Verdict:
        verdict = self._read(key)
        if verdict is None:
            verdict = await self._probe(launch)
            self._keep(key, launch, verdict)
        if not verdict.forgets:
            log.warning(
                "%s (%s) cannot be trusted to reset: %s; each task gets a process of its own",
                launch.argv[0],
                launch.version,
                verdict.why,
            )
        return verdict

    async def _probe(self, launch: Launch) -> Verdict:
        try:
            async with asyncio.timeout(TIMEOUT):
                return await probe(launch, self._settings, self._cookie)
        except (AgentPoolError, OSError, TimeoutError) as error:
            return Verdict(forgets=False, announces=False, why=f"the probe failed: {error!r}")

    def _read(self, key: str) -> Verdict | None:
        try:
            kept = json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8"))
            return Verdict(bool(kept["forgets"]), bool(kept["announces"]), str(kept["why"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _keep(self, key: str, launch: Launch, verdict: Verdict) -> None:
        if "the probe failed" in verdict.why:
            return
        kept = {"cli": launch.argv[0], "version": launch.version, **asdict(verdict)}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", dir=self._folder, delete=False, encoding="utf-8"
            ) as file:
                json.dump(kept, file)
            Path(file.name).replace(self._folder / f"{key}.json")
        except OSError as error:
            log.warning("the verdict on %s cannot be kept: %s", launch.argv[0], error)


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where this user's programs keep what they can find again."""
    if named := environ.get("XDG_CACHE_HOME"):
        return Path(named) / "agent-pool"
    home = Path(environ.get("HOME") or Path.home())
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "agent-pool"


def key_of(launch: Launch) -> str:
    """Equal for launches that must behave alike: same binary, same flags."""
    path = Path(launch.argv[0]).resolve()
    try:
        status = path.stat()
        stamp = status.st_size, status.st_mtime_ns
    except OSError:  # gone since; its running processes go on
        stamp = 0, 0
    parts = [EDITION, str(path), *stamp, launch.version]
    return hashlib.sha256(json.dumps([*parts, *launch.argv[1:]]).encode()).hexdigest()[:32]


async def probe(launch: Launch, settings: Settings, cookie: str) -> Verdict:
    """Start a process with these flags, tell it a word, clear it, and look at what it sends next.

    Raises:
        AgentPoolError, OSError: it could not be carried out.
    """
    from agent_pool.loopback import LoopbackAPI

    canary = f"canary-{secrets.token_hex(8)}"
    with tempfile.TemporaryDirectory(prefix=folder_prefix(cookie)) as folder:
        async with LoopbackAPI() as api:
            worker = _canary_worker(launch, settings, cookie, Path(folder), api.url)
            try:
                await worker.start()
                await worker.turn(f"The word is {canary}.")
                told = any(canary in str(request.body) for request in api.requests)
                before = len(api.requests)
                await worker.reset()
                if not worker.is_clean:
                    return _refused(worker)
                await worker.turn("Which word?")
                after = list(api.requests)[before:]
            finally:
                await worker.stop()
    if not told or not after:
        return Verdict(forgets=False, announces=False, why="it did not ask the model at all")
    if any(canary in str(request.body) for request in after):
        why = "after /clear it sent the earlier conversation again"
        return Verdict(forgets=False, announces=False, why=why)
    if not worker.session.is_stamped:
        why = "it does not say which task a result answers"
        return Verdict(forgets=False, announces=False, why=why)
    announces = worker.session.announced_reset
    return Verdict(forgets=True, announces=announces, why="after /clear it sent nothing of it")


def _refused(worker: Worker) -> Verdict:
    """What a reset means that did not end well; no answer at all means nothing."""
    why = "; ".join(worker.taints) or "the process ended"
    if worker.is_gone or worker.session.state is State.RESETTING:
        raise SpawnError(f"the canary did not answer /clear: {why}")
    return Verdict(forgets=False, announces=False, why=why)


def _canary_worker(
    launch: Launch, settings: Settings, cookie: str, folder: Path, url: str
) -> Worker:
    """A worker with these flags that can reach nothing but the offline model."""
    env = offline_environment(launch, folder, url)
    canary = replace(launch, env=env, cwd=folder, servers="", prompt="You keep words.")
    cookie = f"{cookie}-{secrets.token_hex(4)}"
    return Worker("canary", canary, settings, cookie=cookie, run_dir=folder)
