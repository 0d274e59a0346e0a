"""Structured logs: one line reads alone, plus fields with units; JSON unless a person watches."""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson
import structlog

# A name that holds one of these words never shows its value, wherever it was logged from.
SECRET_WORDS = (
    "password",
    "secret",
    "token",
    "api_key",
    "authorization",
    "database_url",
    "redis_url",
)


def _redact(
    _logger: Any, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    for name, value in event.items():
        event[name] = _without_secrets(name, value)
    return event


def _without_secrets(name: str, value: Any) -> Any:
    if isinstance(value, str | bytes) and any(word in name.lower() for word in SECRET_WORDS):
        return "[redacted]"
    if isinstance(value, dict):
        return {key: _without_secrets(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(name, inner) for inner in value]
    return value


def set_up_logs(level: str = "info", *, as_json: bool = True) -> None:
    """Routes structlog and the standard library to stderr."""
    render: Any = (
        structlog.processors.JSONRenderer(
            serializer=lambda event, **_: orjson.dumps(event, default=str).decode()
        )
        if as_json
        else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redact,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s %(message)s")
