"""The plain tools, prompts and resources that the conformance suite of MCP wants from a server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    AudioContent,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    GetPromptResult,
    ImageContent,
    Prompt,
    PromptArgument,
    PromptMessage,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextContent,
    TextResourceContents,
    Tool,
)
from mcp_types import BlobResourceContents as Blob

PNG: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJg"
    "gg=="
)
"""A picture of one pixel."""
WAV: Final = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
"""A sound without samples."""


def text(words: str) -> TextContent:
    """Return a text as content."""
    return TextContent(text=words)


def answer(*content: ContentBlock, is_error: bool = False) -> CallToolResult:
    """Return the result of a tool."""
    return CallToolResult(content=list(content), is_error=is_error)


def embedded(uri: str, words: str, mime_type: str = "text/plain") -> EmbeddedResource:
    """Return a resource as content."""
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=words))


PLAIN_RESULTS: Final[Mapping[str, CallToolResult]] = {
    "test_simple_text": answer(text("This is a simple text response for testing.")),
    "test_image_content": answer(ImageContent(data=PNG, mime_type="image/png")),
    "test_audio_content": answer(AudioContent(data=WAV, mime_type="audio/wav")),
    "test_embedded_resource": answer(embedded("test://embedded-resource", "An embedded resource.")),
    "test_multiple_content_types": answer(
        text("Multiple content types test:"),
        ImageContent(data=PNG, mime_type="image/png"),
        embedded("test://mixed-content-resource", '{"test": "data"}', "application/json"),
    ),
    "test_error_handling": answer(text("This tool intentionally returns an error"), is_error=True),
    "json_schema_2020_12_tool": answer(text("called")),
    "test_x_mcp_header": answer(text("called")),
}
"""The tools that always return the same."""

_NOTHING: Final[dict[str, Any]] = {"type": "object", "properties": {}}
_SCHEMAS: Final[Mapping[str, dict[str, Any]]] = {
    "test_x_mcp_header": {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    },
    # Every keyword here must reach the client as it is.
    "json_schema_2020_12_tool": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {
            "properties": {"contactMethod": {"const": "phone"}},
            "required": ["contactMethod"],
        },
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
}


def schema_of(name: str) -> dict[str, Any]:
    """Return the schema of a tool's arguments; most tools have none."""
    return _SCHEMAS.get(name, _NOTHING)


def declare_tool(name: str) -> Tool:
    """Return a tool as clients see it."""
    return Tool(name=name, description="For the conformance suite.", input_schema=schema_of(name))


# Prompts

PROMPTS: Final[Mapping[str, tuple[str, ...]]] = {
    "test_simple_prompt": (),
    "test_prompt_with_arguments": ("arg1", "arg2"),
    "test_prompt_with_embedded_resource": ("resourceUri",),
    "test_prompt_with_image": (),
    "test_input_required_result_prompt": (),
}
"""The prompts, and their arguments."""


def declare_prompt(name: str) -> Prompt:
    """Return a prompt as clients see it."""
    arguments = [PromptArgument(name=one, required=True) for one in PROMPTS[name]]
    return Prompt(name=name, description="For the conformance suite.", arguments=arguments)


def prompt_of(*content: ContentBlock) -> GetPromptResult:
    """Return a prompt with one message for each content."""
    return GetPromptResult(messages=[PromptMessage(role="user", content=one) for one in content])


def render_prompt(name: str, arguments: Mapping[str, str]) -> GetPromptResult:
    """Return a prompt; it has all of its arguments."""
    match name:
        case "test_prompt_with_embedded_resource":
            return prompt_of(embedded(arguments["resourceUri"], "An embedded resource."))
        case "test_prompt_with_image":
            return prompt_of(ImageContent(data=PNG, mime_type="image/png"))
    return prompt_of(text(f"This is a prompt for testing: {json.dumps(dict(arguments))}"))


# Resources

_TEMPLATE: Final = ("test://template/", "/data")
RESOURCES: Final = [
    Resource(uri="test://static-text", name="static-text", mime_type="text/plain"),
    Resource(uri="test://static-binary", name="static-binary", mime_type="image/png"),
    Resource(uri="test://watched-resource", name="watched-resource", mime_type="text/plain"),
]
TEMPLATES: Final = [
    ResourceTemplate(
        name="template", uri_template="{id}".join(_TEMPLATE), mime_type="application/json"
    )
]


def read_resource(uri: str) -> ReadResourceResult:
    """Return the contents of a resource.

    Raises:
        MCPError: there is no such resource.
    """
    first, last = _TEMPLATE
    if uri == "test://static-binary":
        return ReadResourceResult(contents=[Blob(uri=uri, mime_type="image/png", blob=PNG)])
    if uri.startswith(first) and uri.endswith(last):
        found = json.dumps({"id": uri.removeprefix(first).removesuffix(last)})
        kind = "application/json"
    elif uri in {one.uri for one in RESOURCES}:
        found, kind = "A text resource for testing.", "text/plain"
    else:
        raise MCPError(INVALID_PARAMS, f"Resource not found: {uri}", {"uri": uri})
    return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type=kind, text=found)])
