"""What the client of a request can do, by what that request declares."""

from __future__ import annotations

from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agent_pool import PermissionRequest
from agent_pool.mcp.permissions import Ask, Verdict, form, verdict_of

Context = ServerRequestContext[Any, Any]


def is_modern(ctx: Context) -> bool:
    """Whether the protocol has no requests from server to client."""
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


def declares(ctx: Context, extension: str) -> bool:
    """Whether the request declares an extension."""
    capabilities = ctx.session.client_capabilities
    return bool(capabilities and extension in (capabilities.extensions or {}))


def can_be_asked(ctx: Context) -> bool:
    """Whether the client shows forms to a person; one that names no kind of them does."""
    capabilities = ctx.session.client_capabilities
    offered = capabilities.elicitation if capabilities else None
    return offered is not None and (offered.form is not None or offered.url is None)


def asking(ctx: Context) -> Ask:
    """Asks by a request to the client, which only the older protocols have."""

    async def ask(request: PermissionRequest) -> Verdict:
        shown = form(request)
        try:
            answer = await ctx.session.elicit_form(
                shown.message, shown.requested_schema, ctx.request_id
            )
        except MCPError:
            return Verdict.CANNOT_ASK
        return verdict_of(answer)

    return ask
