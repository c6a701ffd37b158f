"""`python -m clients.gateways`: a pool behind LiteLLM, with an Anthropic and an OpenAI backend."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2

from agent_pool import AgentPool, TaskResult
from agent_pool.loopback import LoopbackAPI, ModelRequest, ToolUseBlock, get_result_text
from clients.dialog import Conversation, ToolCall, prompt_for
from clients.environments import Environment, Packages
from clients.openai_model import OpenAIModel
from clients.site import AGENT, Site

VERSION: Final = "1.106.12"
PACKAGES: Final = Packages(pip=(f"litellm[proxy]=={VERSION}",))
RESULTS: Final = Path(__file__).with_name("gateways.json")
START_TIMEOUT: Final = 120.0
PAIRS: Final = 40
"""Tasks for the comparison of times, each with and without the gateway in turn."""
ATTRIBUTION: Final = "x-anthropic-billing-header"
LOCAL: Final = "local"


@dataclass
class Way:
    """What a pool did on one way to its model.

    Attributes:
        name: the way.
        facts: what was seen, by name.
    """

    name: str
    facts: dict[str, Any] = field(default_factory=dict)


class Models:
    """The two backends and what they have received.

    Attributes:
        anthropic: the Messages API.
        openai: Chat Completions and Responses.
    """

    def __init__(self, anthropic: LoopbackAPI, openai: OpenAIModel) -> None:
        self.anthropic = anthropic
        self.openai = openai

    def bodies(self) -> list[dict[str, Any]]:
        """Return the bodies of all requests so far."""
        mine = [dict(request.body) for request in self.anthropic.requests]
        return mine + [body for _, body in self.openai.bodies]

    def paths(self) -> list[str]:
        """Return the paths of all requests so far."""
        mine = [request.path for request in self.anthropic.requests]
        return mine + [path for path, _ in self.openai.bodies]


def follow_plan(request: ModelRequest) -> Any:
    """Make the calls that the task names, as the OpenAI model does."""
    results = tuple(
        get_result_text(block)
        for message in request.messages
        if not isinstance(message["content"], str)
        for block in message["content"]
        if block["type"] == "tool_result"
    )
    seen = Conversation(request.last_user_text, request.tools, results)
    calls = seen.next_calls()
    if calls:
        return [ToolUseBlock(call.tool, call.arguments) for call in calls]
    return "FINISHED"


class Gateway:
    """LiteLLM on 127.0.0.1."""

    def __init__(self, environment: Environment, folder: Path, models: Models) -> None:
        self._environment = environment
        self._folder = folder
        self._models = models
        self.key = f"sk-{secrets.token_hex(16)}"
        self.port = _free_port()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Return the address."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start the gateway, and wait until it serves.

        Raises:
            TimeoutError: it does not.
        """
        config = self._folder / "litellm.yaml"
        config.write_text(json.dumps(self._config()))  # JSON is YAML
        with (self._folder / "litellm.log").open("w") as log:
            self._process = await asyncio.create_subprocess_exec(
                self._environment.command("litellm"),
                *("--config", str(config), "--host", "127.0.0.1", "--port", str(self.port)),
                env={
                    "HOME": str(self._folder),
                    "PATH": os.environ["PATH"],
                    "LITELLM_MASTER_KEY": self.key,
                    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                    "ANTHROPIC_API_BASE": self._models.anthropic.url,
                    "ANTHROPIC_API_KEY": "none",
                },
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(START_TIMEOUT), httpx2.AsyncClient() as client:
            while not await _answers(client, f"{self.url}/health/liveliness"):
                await asyncio.sleep(0.3)

    def _config(self) -> dict[str, Any]:
        backends = {
            "claude-*": {"model": "anthropic/claude-*", "api_base": self._models.anthropic.url},
            LOCAL: {"model": f"openai/{LOCAL}", "api_base": f"{self._models.openai.url}/v1"},
        }
        return {
            "model_list": [
                {"model_name": name, "litellm_params": {**given, "api_key": "none"}}
                for name, given in backends.items()
            ],
            "litellm_settings": {"drop_params": True},
        }

    async def stop(self) -> None:
        """End the gateway."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()


async def _answers(client: httpx2.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx2.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Trial:
    """A pool on one way to its model."""

    def __init__(self, site: Site, models: Models, way: Way, url: str, key: str) -> None:
        self._site = site
        self._models = models
        self._way = way
        self._url = url
        self._key = key

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of the pool."""
        own = {"ANTHROPIC_API_KEY": "", "ANTHROPIC_AUTH_TOKEN": self._key, **more}
        given = {**self._site.environment(self._url), "AGENT_POOL_DAEMON": "off", **own}
        return {name: value for name, value in given.items() if value}

    def pool(self, attribution: bool = True, **more: str) -> AgentPool:
        """Return a pool; it is not open yet."""
        return AgentPool(
            environ=self.environment(**more), reset="clear", spares=0, attribution=attribution
        )

    async def run(self, **more: str) -> None:
        """Give two tasks with a tool to one worker, and note what came of it."""
        async with self.pool(**more) as pool:
            before = len(self._models.bodies())
            first = await pool.invoke(AGENT, _plan("echo quince"))
            middle = len(self._models.bodies())
            second = await pool.invoke(AGENT, _plan("echo medlar"))
            bodies = self._models.bodies()
            stats = await pool.stats()
        self._note(first, second, bodies[before:middle], bodies[middle:])
        self._way.facts["path"] = self._models.paths()[-1]
        self._way.facts["results without a task"] = stats.strays
        async with self.pool(attribution=False, **more) as pool:
            before = len(self._models.bodies())
            await pool.invoke(AGENT, _plan("echo quince"))
            bodies = self._models.bodies()[before:]
        self._way.facts["with attribution = false"] = place_of(ATTRIBUTION, bodies[0])

    def _note(
        self,
        first: TaskResult,
        second: TaskResult,
        of_first: list[dict[str, Any]],
        of_second: list[dict[str, Any]],
    ) -> None:
        facts = self._way.facts
        facts["answers"] = [first.text, second.text]
        facts["tool result"] = place_of("medlar", of_second[-1])
        facts["same process"] = first.pid == second.pid
        facts["first task in the second's requests"] = "quince" in json.dumps(of_second)
        facts["attribution line"] = place_of(ATTRIBUTION, of_second[0])
        facts["cache_control"] = json.dumps(of_second[0]).count('"cache_control"')
        facts["usage"] = second.usage.as_json()
        facts["cost_usd"] = second.cost_usd
        facts["models"] = list(second.models)
        facts["requests"] = second.requests


def _plan(command: str) -> str:
    return prompt_for([ToolCall("Bash", {"command": command})])


def place_of(text: str, body: Any, path: str = "") -> str:
    """Return where a text begins in a request: the path of the first value that starts with it."""
    if isinstance(body, str):
        return path if body.startswith(text) else ""
    if not isinstance(body, dict | list):
        return ""
    pairs: Iterable[tuple[Any, Any]] = body.items() if isinstance(body, dict) else enumerate(body)
    found = (place_of(text, value, f"{path}.{key}".lstrip(".")) for key, value in pairs)
    return next(filter(None, found), "")


async def compare_times(direct: Trial, other: Trial, **more: str) -> dict[str, float]:
    """Return the medians of a task's time on both ways, one task after the other, in ms."""
    times: dict[str, list[float]] = {"direct": [], "gateway": []}
    async with direct.pool() as one, other.pool(**more) as two:
        for number in range(PAIRS + 3):
            for name, pool in (("direct", one), ("gateway", two)):
                result = await pool.invoke(AGENT, f"hello {number}")
                if number >= 3:
                    times[name].append(result.duration * 1000)
    differences = [b - a for a, b in zip(times["direct"], times["gateway"], strict=True)]
    quarters = statistics.quantiles(differences, n=4)
    return {
        "direct": round(statistics.median(times["direct"]), 1),
        "gateway": round(statistics.median(times["gateway"]), 1),
        "difference": round(statistics.median(differences), 1),
        "difference, quartiles": [round(quarters[0], 1), round(quarters[2], 1)],
    }
