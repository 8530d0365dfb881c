"""What the daemon tells of itself: one line an event, as text or as JSON, on standard error.

Rule 1: no key and no byte of a request is ever part of a line. Fields are numbers and words of our own.
Rule 2: of an exception its kind and its place are told, never its text, which may quote data.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

LEVELS = ("error", "warning", "info", "debug")
FORMATS = ("text", "json")

_log = logging.getLogger("uxfrm.daemon")
_PRIORITIES = {logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


def configure(form: str, level: str) -> None:
    """Write events of `level` and above to standard error, in one of FORMATS."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(_json if form == "json" else _journal if _to_journal() else _text))
    logging.raiseExceptions = False  # a line that cannot be written is lost, not quoted
    _log.handlers = [handler]
    _log.propagate = False
    _log.setLevel(level.upper())


def debugging() -> bool:
    """True when debug events are wanted: they are not put together otherwise."""
    return _log.isEnabledFor(logging.DEBUG)


def error(event: str, **fields: object) -> None:
    """Tell of what should not happen."""
    _log.error(event, extra={"fields": fields})


def warning(event: str, **fields: object) -> None:
    """Tell of what somebody was refused."""
    _log.warning(event, extra={"fields": fields})


def info(event: str, **fields: object) -> None:
    """Tell of what goes on."""
    _log.info(event, extra={"fields": fields})


def debug(event: str, **fields: object) -> None:
    """Tell of a detail."""
    _log.debug(event, extra={"fields": fields})


def failure(event: str, caught: BaseException, **fields: object) -> None:
    """Tell of an exception: its kind, and the line that raised it."""
    frames = traceback.extract_tb(caught.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown"
    error(event, **fields, exception=type(caught).__name__, at=place)


class _Lines(logging.Formatter):
    """One line a record."""

    def __init__(self, write: Callable[[logging.LogRecord, dict[str, Any]], str]) -> None:
        super().__init__()
        self._write = write

    def format(self, record: logging.LogRecord) -> str:
        return self._write(record, getattr(record, "fields", {}))


def _json(record: logging.LogRecord, fields: dict[str, Any]) -> str:
    line = {"time": round(record.created, 3), "level": record.levelname.lower(), "event": record.getMessage()}
    return msgspec.json.encode(line | fields, enc_hook=str).decode()


def _text(record: logging.LogRecord, fields: dict[str, Any]) -> str:
    told = " ".join(f"{name}={_quoted(value)}" for name, value in fields.items())
    return f"uxfrm: {record.getMessage()} {told}".rstrip()


def _journal(record: logging.LogRecord, fields: dict[str, Any]) -> str:
    """sd-daemon(3): the journal takes the priority from the line."""
    return f"<{_PRIORITIES.get(record.levelno, 6)}>{_text(record, fields)}"


def _quoted(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text else ascii(text)


def _to_journal() -> bool:
    """True when standard error is the journal's. Follows: systemd.exec(5), JOURNAL_STREAM."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
