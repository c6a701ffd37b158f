"""An offline, scripted Messages API on 127.0.0.1 for the real Claude Code CLI.

    async with LoopbackAPI(lambda request: f"you wrote {request.last_user_text}") as api:
        env = {**os.environ, **api.env}    # for the Claude Code process
        ...
        print(api.requests[-1].last_user_text, api.usage.total)

It needs no key and no network, and costs no money. `import agent_pool` does not load it.
"""

from agent_pool.loopback.api import LoopbackAPI
from agent_pool.loopback.cache import PromptCache, measure_prefixes
from agent_pool.loopback.reply import (
    DroppedConnection,
    ErrorResponse,
    ModelReply,
    StreamError,
    TextBlock,
    ToolUseBlock,
)
from agent_pool.loopback.request import ModelRequest, get_result_text
from agent_pool.loopback.request_log import OtherRequest
from agent_pool.loopback.scripts import Script, call_tools, echo, sequence
from agent_pool.loopback.usage import ApiUsage, UsageEntry, UsageLog, UsageTotal

__all__ = [
    "ApiUsage",
    "DroppedConnection",
    "ErrorResponse",
    "LoopbackAPI",
    "ModelReply",
    "ModelRequest",
    "OtherRequest",
    "PromptCache",
    "Script",
    "StreamError",
    "TextBlock",
    "ToolUseBlock",
    "UsageEntry",
    "UsageLog",
    "UsageTotal",
    "call_tools",
    "echo",
    "get_result_text",
    "measure_prefixes",
    "sequence",
]
