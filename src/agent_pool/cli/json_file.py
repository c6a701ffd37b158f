"""JSON files of other programs: read as a whole, changed in one place, replaced in one step."""

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
"""The rest of a text of `new_file_text` after its only member was removed."""


def read_json(path: Path) -> tuple[str, dict[str, Any]]:
    """Return a file's text and the object that it holds; both are empty if there is no file.

    Raises:
        ConfigError: the file cannot be read, or holds no JSON object.
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


def new_file_text(value: dict[str, Any]) -> str:
    """Return the text of a new file."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def replace_file(path: Path, text: str) -> None:
    """Replace a file's text in one step; keep its mode and byte order mark, follow links.

    A text that is empty but for the layout of `new_file_text` removes the file, and its folder if
    that is empty then: this package created both.
    """
    path = path.resolve()
    if text.strip() == _EMPTIED:
        path.unlink()
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename between two file systems is not possible.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write((_read_bom(path) + text).encode("utf-8"))
            os.fchmod(file.fileno(), _file_mode(path))  # mkstemp makes files with mode 600
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read_bom(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        if file.read(3) == _BOM.encode():
            return _BOM
    return ""


def _file_mode(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o7777
    except FileNotFoundError:
        return 0o666 & ~_read_umask()


def _read_umask() -> int:
    mask = os.umask(0)  # the only way to read it is to set it
    os.umask(mask)
    return mask
