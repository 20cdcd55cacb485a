"""Logging, set up once by a program's entry.

Rules:

- Everything goes to standard error: standard output belongs to a command's answer. On a terminal as lines for people,
  elsewhere as one JSON object a line (`timestamp` in UTC, RFC 3339; `level`; `event`; `program`).
- Records of the standard library's `logging`, which dependencies use, take the same way.
- A value under a name that means a secret is replaced before it is rendered, wherever it stands in the record. That is
  the second net: nothing is supposed to hand a secret to a logger in the first place. Tracebacks show code lines, never
  the values of local variables.
- Metric names are in `metrics_names`.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "console"]

REDACTED: Final = "[redacted]"
# Dependencies that log each request or connection at `info`.
QUIET_LOGGERS: Final = ("alembic", "asyncio", "grpc", "sqlalchemy")

_SECRET_NAME = re.compile(r"api_?key(?!_(env|id))|authorization|password|private_?key|secret|token", re.IGNORECASE)


def configure_logging(level: LogLevel, log_format: LogFormat, program: str) -> None:
    """Send every log record of this process to standard error; `program` is added to each JSON line."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        redact,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_console_renderers() if console else _json_renderers(program)),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(capture=True)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace the value of every field whose name means a secret, in nested fields too."""
    return {name: REDACTED if _SECRET_NAME.search(name) else _redacted(value) for name, value in event.items()}


def _redacted(value: Any) -> Any:  # noqa: ANN401  a log field holds anything
    if isinstance(value, dict):
        return {name: REDACTED if _SECRET_NAME.search(str(name)) else _redacted(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner) for inner in value]
    return value


def _console_renderers() -> list[Processor]:
    return [
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    ]


def _json_renderers(program: str) -> list[Processor]:
    def add_program(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["program"] = program
        return event

    return [
        add_program,
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(ensure_ascii=True),
    ]
