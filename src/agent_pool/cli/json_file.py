"""JSON files of other programs: read whole, changed in one place, replaced at once."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Final

from agent_pool.errors import ConfigError

_BOM: Final = "\ufeff"
_EMPTIED: Final = "{\n  \n}"
"""What is left of a file that `created` made, once its only member was cut out."""


def read_json(path: Path) -> tuple[str, dict[str, Any]]:
    """A file's text and the object that it holds; both empty when there is no such file.

    Raises:
        ConfigError: it cannot be read, is no JSON or no object; it is left alone.
    """
    try:
        text = path.read_bytes().decode("utf-8").removeprefix(_BOM)
        value = json.loads(text)
    except FileNotFoundError:
        return "", {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}; correct this file first") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a JSON object; correct this file first")
    return text, value


def created(value: dict[str, Any]) -> str:
    """The text of a new file."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Replace a file's text in one step, keeping its mode and byte order mark, following links.

    A text that nothing is left of, in a file that began as `created`, removes the file, and its
    folder if that is empty then.
    """
    path = path.resolve()
    if text.strip() == _EMPTIED:
        path.unlink()
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write((_bom_of(path) + text).encode("utf-8"))
            os.fchmod(file.fileno(), _mode_of(path))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _bom_of(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        if file.read(3) == _BOM.encode():
            return _BOM
    return ""


def _mode_of(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o7777
    except FileNotFoundError:
        return 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
