"""`python -m clients.gateways`: a pool behind LiteLLM, with an Anthropic and an OpenAI backend."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shutil
import socket
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx2

from agent_pool import AgentPool, TaskResult
from agent_pool.loopback import LoopbackAPI, ModelRequest, ToolUseBlock, get_result_text
from clients.claude_code import bundled_version
from clients.dialog import Conversation, ToolCall, prompt_for
from clients.environments import Environment, Packages
from clients.openai_model import OpenAIModel
from clients.site import AGENT, Site

VERSION: Final = "1.106.12"
PACKAGES: Final = Packages(pip=(f"litellm[proxy]=={VERSION}",))
RESULTS: Final = Path(__file__).with_name("gateways.json")
START_TIMEOUT: Final = 120.0
WARM_UP: Final = 5
"""Tasks before the comparison of times."""
PAIRS: Final = 40
"""Tasks for the comparison of times, each with and without the gateway in turn."""
ATTRIBUTION: Final = "x-anthropic-billing-header"
LOCAL: Final = "local"
HELPER: Final = "helper"
"""An agent with `model: sonnet`."""


class Models:
    """The two backends and what they have received.

    Attributes:
        anthropic: the Messages API.
        openai: Chat Completions and Responses.
    """

    def __init__(self, anthropic: LoopbackAPI, openai: OpenAIModel) -> None:
        self.anthropic = anthropic
        self.openai = openai

    def requests(self) -> list[tuple[str, dict[str, Any]]]:
        """Return path and body of all requests so far; those of one backend in their order."""
        mine = [(request.path, dict(request.body)) for request in self.anthropic.requests]
        return mine + self.openai.bodies

    def paths(self) -> list[str]:
        """Return the paths of all requests so far."""
        return [path for path, _ in self.requests()]


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

    def __init__(
        self, environment: Environment, folder: Path, models: Models, settings: dict[str, Any]
    ) -> None:
        self._environment = environment
        self._folder = folder
        self._models = models
        self._settings = settings
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
            while not await _answers(client, f"{self.url}/health/liveliness"):  # noqa: ASYNC110
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
            "litellm_settings": {"drop_params": True, **self._settings},
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
    """A pool on one way to its model.

    Args:
        url: where its requests go.
        key: the key for that address.
        variables: more of its environment.
    """

    def __init__(
        self, site: Site, models: Models, name: str, url: str, key: str, **variables: str
    ) -> None:
        self._site = site
        self._models = models
        self._name = name
        own = {"AGENT_POOL_DAEMON": "off", "ANTHROPIC_AUTH_TOKEN": key, **variables}
        self._environ = {**site.environment(url), **own}
        # The gateway takes its key as a bearer token, and a second key is not needed.
        del self._environ["ANTHROPIC_API_KEY"]

    def pool(self, reset: Any = "auto", attribution: bool = True) -> AgentPool:
        """Return a pool; it is not open yet."""
        environ = self._environ
        return AgentPool(environ=environ, reset=reset, spares=0, attribution=attribution)

    async def run(self) -> dict[str, Any]:
        """Give tasks with a tool to one worker, and return what was seen."""
        async with self.pool() as pool:
            first, _ = await self._invoke(pool, "echo quince")
            second, bodies = await self._invoke(pool, "echo medlar")
            _, of_helper = await self._invoke(pool, "echo third", HELPER)
            stats = await pool.stats()
        async with self.pool(attribution=False) as pool:
            _, without = await self._invoke(pool, "echo quince")
        return {
            "name": self._name,
            "path": self._models.paths()[-1],
            "answers": [first.text, second.text],
            "tool result in the request": place_of("medlar", bodies[-1]),
            "same process": first.pid == second.pid,
            "first task in the second's requests": "quince" in json.dumps(bodies),
            "resets": stats.resets,
            "results without a task": stats.strays,
            "attribution line": place_of(ATTRIBUTION, bodies[0]),
            "attribution line with attribution = false": place_of(ATTRIBUTION, without[0]),
            "cache_control": json.dumps(bodies[0]).count('"cache_control"'),
            "fields": sorted(bodies[0]),
            "model": bodies[0]["model"],
            "model of an agent with `model: sonnet`": of_helper[0]["model"],
            "usage": second.usage.as_json(),
            "cost_usd": second.cost_usd,
            "requests": second.requests,
        }

    async def _invoke(
        self, pool: AgentPool, command: str, agent: str = AGENT
    ) -> tuple[TaskResult, list[dict[str, Any]]]:
        """Let an agent run a command; return its result and its requests at the backend."""
        before = len(self._models.requests())
        result = await pool.invoke(agent, _plan(command))
        return result, [body for _, body in self._models.requests()[before:]]


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


async def compare_times(direct: Trial, other: Trial) -> dict[str, Any]:
    """Return the times of a task on both ways, given in turn, in milliseconds."""
    times: dict[str, list[float]] = {"direct": [], "gateway": []}
    async with direct.pool() as one, other.pool() as two:
        for number in range(PAIRS + WARM_UP):
            for name, pool in (("direct", one), ("gateway", two)):
                result = await pool.invoke(AGENT, f"hello {number}")
                if number >= WARM_UP:
                    times[name].append(result.duration * 1000)
    differences = [b - a for a, b in zip(times["direct"], times["gateway"], strict=True)]
    lower, middle, upper = statistics.quantiles(differences, n=4)
    return {
        "direct": round(statistics.median(times["direct"]), 1),
        "gateway": round(statistics.median(times["gateway"]), 1),
        "difference": round(middle, 1),
        "quartiles of the difference": [round(lower, 1), round(upper, 1)],
        "pairs": PAIRS,
    }


async def run_all(environment: Environment) -> dict[str, Any]:
    """Try every way, and return what was seen."""
    folder = Path(tempfile.mkdtemp(prefix="ap-", dir="/tmp"))
    site = Site(folder)
    site.agent(HELPER, "sonnet")
    openai = OpenAIModel()
    await openai.start()
    try:
        async with LoopbackAPI(follow_plan) as anthropic:
            models = Models(anthropic, openai)
            direct = Trial(site, models, "direct", anthropic.url, "none")
            ways = [await direct.run()]
            async with gateway(environment, folder, models) as lite:
                through = Trial(site, models, "model list", lite.url, lite.key)
                ways.append(await through.run())
                passing = f"{lite.url}/anthropic"
                ways.append(await Trial(site, models, "pass-through", passing, lite.key).run())
                ways.append(await local(site, models, "OpenAI, Responses", lite).run())
                times = {"model list": await compare_times(direct, through)}
                passed = Trial(site, models, "pass-through", passing, lite.key)
                times["pass-through"] = await compare_times(direct, passed)
                responses = local(site, models, "OpenAI, Responses", lite)
                times["OpenAI, Responses"] = await compare_times(direct, responses)
            chat = {"use_chat_completions_url_for_anthropic_messages": True}
            async with gateway(environment, folder, models, **chat) as lite:
                ways.append(await local(site, models, "OpenAI, Chat Completions", lite).run())
    finally:
        await openai.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return {"litellm": VERSION, "claude": bundled_version(), "ways": ways, "milliseconds": times}


def local(site: Site, models: Models, name: str, lite: Gateway) -> Trial:
    """Return a trial whose models are all the local one."""
    return Trial(
        site,
        models,
        name,
        lite.url,
        lite.key,
        ANTHROPIC_MODEL=LOCAL,
        ANTHROPIC_DEFAULT_SONNET_MODEL=LOCAL,
    )


@asynccontextmanager
async def gateway(
    environment: Environment, folder: Path, models: Models, **settings: Any
) -> AsyncIterator[Gateway]:
    """Run LiteLLM, with more of its `litellm_settings`."""
    lite = Gateway(environment, folder, models, settings)
    try:
        await lite.start()
        yield lite
    finally:
        await lite.stop()


def main() -> int:
    """Run the command; return 0, or 1 if a task on any way had another answer."""
    parser = argparse.ArgumentParser(prog="python -m clients.gateways", description=__doc__)
    parser.add_argument("--environments", type=Path, help="keep the installed packages here")
    parser.add_argument("--save", action="store_true", help="write clients/gateways.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        environment = Environment((given.environments or Path(temporary)) / "litellm")
        environment.install(PACKAGES)
        seen = asyncio.run(run_all(environment))
    text = json.dumps(seen, indent=1) + "\n"
    sys.stdout.write(text)
    if given.save:
        RESULTS.write_text(text)
    return int(any(way["answers"] != ["FINISHED"] * 2 for way in seen["ways"]))


if __name__ == "__main__":
    sys.exit(main())
