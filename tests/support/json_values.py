"""Hypothesis strategies for the package's values, made from the types of their fields."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st
from pydantic import TypeAdapter

from agent_pool import (
    AgentPoolError,
    SchemaMismatch,
    SpawnError,
    TaskError,
    TaskFailed,
    TaskResult,
    TooManyRequests,
    WorkerDied,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.floats(-1e12, 1e12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: st.integers(0, 2**53),
    float: NUMBERS,
    bool: st.booleans(),
    type(None): st.none(),
    Any: JSON,
    object: JSON,
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of a type: a class of values, or a type of their fields."""
    if hint in SIMPLE:
        return SIMPLE[hint]
    if hint is AgentPoolError:
        return errors()
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return values_of(arguments[0])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(values_of, arguments))
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return st.dictionaries(TEXTS, values_of(arguments[1]), max_size=3)
    assert isinstance(hint, type), hint
    assert is_dataclass(hint), hint
    hints = get_type_hints(hint, include_extras=True)
    return st.builds(
        hint, **{field.name: values_of(hints[field.name]) for field in fields(hint) if field.init}
    )


def errors() -> st.SearchStrategy[AgentPoolError]:
    """Return a strategy for errors of every class that has attributes, and of one that has none."""
    process = {"worker": TEXTS, "pid": st.none() | st.integers(1, 2**22), "stderr_tail": TEXTS}
    results = st.none() | st.deferred(lambda: values_of(TaskResult))
    return st.one_of(
        st.builds(TooManyRequests, TEXTS),
        st.builds(WorkerDied, TEXTS, **process),
        st.builds(SpawnError, TEXTS, **process, is_fatal=st.booleans()),
        st.builds(TaskError, TEXTS, result=results),
        st.builds(TaskFailed, TEXTS, result=results),
        st.builds(SchemaMismatch, TEXTS, result=results),
    )


def assert_other_ways_give_json(value: Any, key: Callable[[Any], Any] = lambda made: made) -> None:
    """Send a value through JSON as programs do that know only dataclasses, and as FastAPI does.

    Args:
        value: the value.
        key: what must be equal afterwards; the whole value if it is not given.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(type(value))
    made = adapter.validate_python(json.loads(json.dumps(asdict(value))))
    assert key(made) == key(value)
    # FastAPI checks what `asdict` gives, and sends what the checked value gives.
    checked = adapter.validate_python(asdict(value))
    assert key(adapter.validate_json(adapter.dump_json(checked))) == key(value)
