"""The names of the node's VMs, kept in a file on the host.

libvirtd lists no VM while it holds the lock of one, and an agent that starts then knows none without it.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

FILE_NAME = "virtual-machines.json"


def to_text(names: Mapping[str, str]) -> str:
    """Return the file's contents for the names by uuid."""
    return json.dumps(dict(names), indent=1, sort_keys=True) + "\n"


def read(directory: Path) -> Mapping[str, str]:
    """Return what is kept there, or nothing; a file that cannot be read is logged and passed over."""
    path = directory / FILE_NAME
    try:
        found: Any = json.loads(path.read_text())
        return {str(uuid): str(name) for uuid, name in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        told = {"path": str(path), "error": f"{type(error).__name__}: {str(error)[:500]}"}
        _log.warning("the names of VMs kept on the host cannot be read; they are passed over", extra=told)
        return {}
