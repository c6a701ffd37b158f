"""An offline, scripted Messages API on 127.0.0.1 for the real Claude Code CLI.

    async with LoopbackAPI(lambda request: f"you said {request.last_user_text}") as api:
        env = {**os.environ, **api.env}    # point a Claude Code process here
        ...
        print(api.requests[-1].last_user_text, api.books.total)

No key, no network, no cost. Nothing else of the package imports this on its own.
"""

from agent_pool.loopback.api import LoopbackAPI
from agent_pool.loopback.books import Account, Books, Line
from agent_pool.loopback.cache import PromptCache, Usage, measure
from agent_pool.loopback.record import OtherRequest
from agent_pool.loopback.reply import Cut, Failure, Reply, StreamError, Text, ToolUse
from agent_pool.loopback.request import Request, text_of
from agent_pool.loopback.scripts import Script, calling, echo, sequence

__all__ = [
    "Account",
    "Books",
    "Cut",
    "Failure",
    "Line",
    "LoopbackAPI",
    "OtherRequest",
    "PromptCache",
    "Reply",
    "Request",
    "Script",
    "StreamError",
    "Text",
    "ToolUse",
    "Usage",
    "calling",
    "echo",
    "measure",
    "sequence",
    "text_of",
]
