"""Remember the resourceVersions of objects, so that a write need not ask for them."""

import threading
from collections import OrderedDict

REMEMBERED_VERSIONS = 4096


class Versions:
    """The resourceVersions that objects were last seen to have, by uid; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, str] = OrderedDict()

    def get(self, uid: str) -> str:
        with self._lock:
            return self._known.get(uid, "")

    def put(self, uid: str, resource_version: str) -> None:
        with self._lock:
            self._known[uid] = resource_version
            self._known.move_to_end(uid)
            if len(self._known) > REMEMBERED_VERSIONS:
                self._known.popitem(last=False)

    def forget(self, uid: str) -> None:
        with self._lock:
            self._known.pop(uid, None)
