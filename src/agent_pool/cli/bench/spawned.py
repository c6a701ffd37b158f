"""A new process for each task: `claude -p`, and the Agent SDK's `query()`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from agent_pool.cli.bench.way import Way
from agent_pool.errors import TaskFailed


class ProcessWay(Way):
    """`claude -p`, as one would type it."""

    async def one(self, task: str) -> str:
        arguments = ["-p", "--agent", self.agent, "--dangerously-skip-permissions", task]
        process = await asyncio.create_subprocess_exec(
            os.environ["CLAUDE_CLI"],
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        text = said.decode("utf-8", "replace")
        if process.returncode:
            raise TaskFailed(f"claude -p ended with {process.returncode}: {text}")
        return text


class QueryWay(Way):
    """`claude_agent_sdk.query()`, with the same agent."""

    async def open(self) -> None:
        from claude_agent_sdk import ClaudeAgentOptions

        self._options = ClaudeAgentOptions(
            cli_path=os.environ["CLAUDE_CLI"],
            cwd=Path.cwd(),
            permission_mode="bypassPermissions",
            setting_sources=["project"],
            extra_args={"agent": self.agent},
        )

    async def one(self, task: str) -> str:
        from claude_agent_sdk import ClaudeSDKError, ResultMessage, query

        said = ""
        try:
            async for message in query(prompt=task, options=self._options):
                if isinstance(message, ResultMessage):
                    said = message.result or ""
        except ClaudeSDKError as error:
            raise TaskFailed(f"query() failed: {error}") from error
        return said
