"""Structured logs: one JSON object a line, on standard error, kopf's own included.

Give fields with `extra`: `log.info("pivoted", extra={"migration": "vms/web-1", "phase": "Pivoting"})`.
"""

import logging
import sys
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

# kopf carries these on its records; of them only the object's name is for a reader.
_KOPF_INTERNAL = ("k8s_skip", "k8s_ref", "settings")


class _Formatter(JsonFormatter):
    """Adds the migration of kopf's own records."""

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        super().add_fields(log_data, record, message_dict)
        reference = record.__dict__.get("k8s_ref")
        if reference and "object" not in log_data:
            log_data["object"] = "/".join(filter(None, (reference.get("namespace"), reference.get("name"))))


def set_up(*, level: str = "INFO") -> None:
    """Sends every logger of the process through the one formatter. Call once, before anything logs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Formatter(
            ("levelname", "name", "message"),
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
            reserved_attrs=[*RESERVED_ATTRS, *_KOPF_INTERNAL],
            timestamp="time",
            json_ensure_ascii=False,
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    # What kopf says of each event and handler, and asyncio of its selector, is chatter here.
    for chatty in ("kopf.objects", "kopf.activities", "kopf._core", "aiohttp.access", "asyncio", "urllib3"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelName(level)))
