"""The daemon's log: a file in the state folder, which is replaced when it is large."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

LOG_LEVEL: Final = "AGENT_POOL_LOG"
MAX_BYTES: Final = 5 << 20
KEPT_FILES: Final = 3
_FORM: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def stop_rotation() -> None:
    """Write on into the present file, however large: another daemon owns the log from now on."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RotatingFileHandler):
            handler.maxBytes = 0


def open_log(path: Path, environ: Mapping[str, str], *, to_stderr: bool) -> None:
    """Send the log messages of this process to a file, and to stderr too if that is wanted.

    `AGENT_POOL_LOG` sets the level of the package's own messages: debug, info, warning or error;
    it is info without it.

    Raises:
        OSError: the file cannot be opened.
    """
    # Made here: the handler would give it the mode that the umask leaves.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    handlers: list[logging.Handler] = [
        RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8")
    ]
    if to_stderr:
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORM))
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    # A full disk must not fill stderr, which is the same file.
    logging.raiseExceptions = False
    wanted = environ.get(LOG_LEVEL, "").upper() or "INFO"
    is_known = wanted in logging.getLevelNamesMapping()
    log = logging.getLogger("agent_pool")
    log.setLevel(wanted if is_known else logging.INFO)
    if not is_known:
        log.warning("%s: expected debug, info, warning or error, not %r", LOG_LEVEL, wanted.lower())
