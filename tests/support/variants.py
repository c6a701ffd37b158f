"""Several ways of one behaviour, of which only some are tests of the default run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def by_default(first: Iterable[str], names: Iterable[str]) -> list[Any]:
    """Build the values of a parameter: those that are not in `first` have the mark `long`."""
    kept = set(first)
    missing = kept - set(names)
    assert not missing, f"these are no values of the parameter: {sorted(missing)}"
    return [one if one in kept else later(one) for one in names]


def later(*values: Any, name: str | None = None) -> Any:
    """Build a case that `pytest -m long` runs, and not the default run."""
    return pytest.param(*values, marks=pytest.mark.long, id=name)
