"""The capabilities of the client behind a request, as the request itself declares them."""

from __future__ import annotations

from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agent_pool import PermissionRequest
from agent_pool.mcp.permissions import AskPerson, Decision, decision_of, permission_form

Context = ServerRequestContext[Any, Any]


def is_modern(ctx: Context) -> bool:
    """Check whether the protocol has no requests from the server to the client."""
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


def declares(ctx: Context, extension: str) -> bool:
    """Check whether the request declares an extension."""
    capabilities = ctx.session.client_capabilities
    return bool(capabilities and extension in (capabilities.extensions or {}))


def client_of(ctx: Context) -> tuple[str, str]:
    """Return the name and the version of the client; empty texts if it names none."""
    params = ctx.session.client_params
    return (params.client_info.name, params.client_info.version) if params else ("", "")


def can_elicit(ctx: Context) -> bool:
    """Check whether the client can show a form to a person."""
    capabilities = ctx.session.client_capabilities
    offered = capabilities.elicitation if capabilities else None
    # Before 2025-11-25 there were only forms, and clients name no kind.
    return offered is not None and (offered.form is not None or offered.url is None)


def elicit_permission(ctx: Context) -> AskPerson:
    """Return what asks a person by a request to the client; only older protocols have those."""

    async def ask(request: PermissionRequest) -> Decision:
        form = permission_form(request)
        try:
            answer = await ctx.session.elicit_form(
                form.message, form.requested_schema, ctx.request_id
            )
        except MCPError:
            return Decision.CANNOT_ASK
        return decision_of(answer)

    return ask
