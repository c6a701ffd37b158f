"""A new process for each task: `claude -p`, and `query()` of the Agent SDK."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from agent_pool.errors import TaskFailed
from benchmarks.methods.base import Method


class ClaudePrint(Method):
    """`claude -p`, as a user would type it."""

    async def run_task(self, task: str) -> str:
        arguments = ["-p", "--agent", self.agent, "--dangerously-skip-permissions", task]
        process = await asyncio.create_subprocess_exec(
            os.environ["CLAUDE_CLI"],
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        text = output.decode("utf-8", "replace")
        if process.returncode:
            raise TaskFailed(f"claude -p ended with {process.returncode}: {text}")
        return text


class SdkQuery(Method):
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

    async def run_task(self, task: str) -> str:
        from claude_agent_sdk import ClaudeSDKError, ResultMessage, query

        answer = ""
        try:
            # Read the stream to its end, where the SDK ends its process.
            async for message in query(prompt=task, options=self._options):
                if isinstance(message, ResultMessage):
                    answer = message.result or ""
        except ClaudeSDKError as error:
            raise TaskFailed(f"query() failed: {error}") from error
        return answer
