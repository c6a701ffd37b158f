"""Secrets in environment variables, found by what they are called and by what they look like."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from agent_pool.models import MASKED

_SECRET_NAME: Final = re.compile(
    r"KEY|TOKEN|SECRET|PASS|PWD(?<!^PWD)(?<!^OLDPWD)|CREDENTIAL|AUTH|COOKIE|HEADER|_PAT$|DSN"
    r"|HOOK|PRIVATE|SIGNATURE|SALT|JWT|BEARER|LICEN[CS]E",
    re.I,
)
"""Words in the names of variables whose whole values are secrets, however they look."""
_USER_IN_URL: Final = re.compile(r"(?<=://)[^/@\s]*@")
_QUERY: Final = re.compile(r"(?<=[?&])([^=&#\s]+)=[^&#\s]*")
_NAMED_SECRET: Final = re.compile(
    r"\b(\w*(?:pass\w*|pwd|secret|token|key)\s*[=:]\s*)(?:\"[^\"]*\"|'[^']*'|[^\s;,&]+)", re.I
)
"""A secret that a text names itself: ``host=db password=hunter2``."""
_WORD: Final = re.compile(r"[A-Za-z0-9+=~%]{12,}")
_PEM: Final = "-----BEGIN"


def has_secret_name(name: str) -> bool:
    """Check whether the name of a variable says that its value is a secret."""
    return _SECRET_NAME.search(name) is not None


def masked_value(name: str, value: str) -> str:
    """Return a variable's value for people to read, without the secrets in it.

    The rules do not depend on a list of programs. A secret is a value whose name says so, a
    password in a URL, the values of a URL's query, what a text itself calls a secret, and each word
    that no person would write: keys, tokens, and the last parts of a webhook's URL.
    """
    if has_secret_name(name) or _PEM in value:
        return MASKED
    value = _USER_IN_URL.sub(f"{MASKED}@", value)
    if "://" in value:
        value = _QUERY.sub(rf"\1={MASKED}", value)
    value = _NAMED_SECRET.sub(rf"\1{MASKED}", value)
    return _WORD.sub(lambda found: MASKED if _is_random(found[0]) else found[0], value)


def _is_random(word: str) -> bool:
    """Check whether a word mixes letters and digits, or cases, as only generated ones do."""
    letters = [letter for letter in word if letter.isalpha()]
    if len(letters) < len(word):
        # Some digits at the end are a number: python3, release20260115.
        return bool(letters) and not word.rstrip("0123456789").isalpha()
    changes = sum(a.isupper() != b.isupper() for a, b in pairwise(word))
    return len(word) >= 16 and changes > len(word) / 3
