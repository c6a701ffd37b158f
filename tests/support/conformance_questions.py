"""Tools of the conformance suite that ask the client: between two requests, or in one.

On 2026-07-28 the answer to a call is the question, and the client repeats the call with the answer.
Before, the server sends requests to the client while the call runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    GetPromptRequestParams,
    GetPromptResult,
    InputRequests,
    InputRequiredResult,
    ListRootsRequest,
    SamplingMessage,
)

from agent_pool.mcp.capabilities import Context
from support.conformance_content import answer, prompt_of, text

Params = CallToolRequestParams | GetPromptRequestParams


def form(message: str, **properties: dict[str, Any]) -> ElicitRequest:
    """Return a question with these fields, of which all are required."""
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sampling(words: str) -> CreateMessageRequest:
    """Return a request to the client's model."""
    message = SamplingMessage(role="user", content=text(words))
    return CreateMessageRequest(
        params=CreateMessageRequestParams(messages=[message], max_tokens=100)
    )


NAME: Final = form("What is your name?", name={"type": "string"})
COLOR: Final = form("What is your favorite color?", color={"type": "string"})
ONE_QUESTION: Final[Mapping[str, InputRequests]] = {
    "test_input_required_result_elicitation": {"user_name": NAME},
    "test_input_required_result_sampling": {"capital_question": sampling("What is the capital?")},
    "test_input_required_result_list_roots": {"client_roots": ListRootsRequest()},
    "test_input_required_result_multiple_inputs": {
        "user_name": NAME,
        "greeting": sampling("Generate a greeting"),
        "client_roots": ListRootsRequest(),
    },
    "test_input_required_result_prompt": {
        "user_context": form("What context should it use?", context={"type": "string"})
    },
    "test_tool_with_task": {"user_name": NAME},
}
"""What these tools and prompts ask before they answer."""
HAS_STATE: Final = {"test_input_required_result_multiple_inputs"}


def missing_answers(params: Params) -> InputRequiredResult | None:
    """Return the questions of a call that are not answered yet; None if all are."""
    questions = ONE_QUESTION[params.name]
    if questions.keys() <= (params.input_responses or {}).keys():
        return None
    state = "asked" if params.name in HAS_STATE else None
    return InputRequiredResult(input_requests=questions, request_state=state)


def answers_text(params: Params) -> str:
    """Return all answers of the client as one text."""
    answers = params.input_responses or {}
    return json.dumps({key: one.model_dump(mode="json") for key, one in answers.items()})


def ask_once(params: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
    """Ask the client, then return its answers."""
    return missing_answers(params) or answer(text(answers_text(params)))


def ask_for_prompt(params: GetPromptRequestParams) -> GetPromptResult | InputRequiredResult:
    """Ask the client, then return a prompt with its answers."""
    return missing_answers(params) or prompt_of(text(answers_text(params)))


def ask_twice(params: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
    """Ask for the name, then for the color; the state holds what is known."""
    known = json.loads(params.request_state or "{}")
    answers = params.input_responses or {}
    if isinstance(color := answers.get("step2"), ElicitResult):
        return answer(text(f"{known.get('name')} likes {(color.content or {}).get('color')}."))
    if isinstance(name := answers.get("step1"), ElicitResult):
        state = json.dumps({"name": (name.content or {}).get("name")})
        return InputRequiredResult(input_requests={"step2": COLOR}, request_state=state)
    return InputRequiredResult(input_requests={"step1": NAME}, request_state="{}")


def ask_what_the_client_can(ctx: Context) -> InputRequiredResult:
    """Ask only in the ways that the client declares."""
    capabilities = ctx.session.client_capabilities
    questions: InputRequests = {}
    if capabilities and capabilities.sampling is not None:
        questions["sample"] = sampling("Say hello")
    if capabilities and capabilities.elicitation is not None:
        questions["ask"] = NAME
    return InputRequiredResult(input_requests=questions, request_state="asked")


# Forms of the older protocols


def _titled(*names: str) -> list[dict[str, str]]:
    return [{"const": name, "title": name.capitalize()} for name in names]


FORMS: Final[Mapping[str, ElicitRequest]] = {
    "test_elicitation": form("What do you say?", response={"type": "string"}),
    "test_elicitation_sep1034_defaults": form(
        "Please review the fields",
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive"], "default": "active"},
        verified={"type": "boolean", "default": True},
    ),
    "test_elicitation_sep1330_enums": form(
        "Please choose",
        untitledSingle={"type": "string", "enum": ["option1", "option2", "option3"]},
        titledSingle={"type": "string", "oneOf": _titled("one", "two", "three")},
        legacyEnum={
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        untitledMulti={
            "type": "array",
            "items": {"type": "string", "enum": ["option1", "option2", "option3"]},
        },
        titledMulti={"type": "array", "items": {"anyOf": _titled("one", "two", "three")}},
    ),
}


async def ask_during_call(ctx: Context, name: str) -> CallToolResult:
    """Show the form of a tool to the client's person, and return the answer."""
    params = FORMS[name].params
    assert isinstance(params, ElicitRequestFormParams)
    found = await ctx.session.elicit_form(params.message, params.requested_schema, ctx.request_id)
    words = f"Elicitation completed: action={found.action}, content={json.dumps(found.content)}"
    return answer(text(words))
