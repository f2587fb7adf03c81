"""A user's part: applies many migrations at a steady rate, and sees when each reaches a phase."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import urllib3

from diskmigration.api import names
from diskmigration.cluster import resources
from diskmigration.cluster.client import Cluster
from tests.scale.simulated_node import TARGETS, domain_name, machine_name

APPLIERS = 24
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class PhaseWatch:
    """When each migration was first seen in a phase (time.monotonic), by its name; only its metadata is sent."""

    def __init__(self, admin: Cluster, phase: str) -> None:
        self.seen: dict[str, float] = {}
        self._credentials = admin.credentials()
        self._phase = phase
        self._changed = threading.Condition()
        self._is_over = False
        # From the watch cache, as the operator's and the agents' watches are: etcd's own would be decoded once more.
        self._resource_version = "0"
        threading.Thread(target=self._run, name=f"watch {phase}", daemon=True).start()

    def stop(self) -> None:
        """The apiserver may end the watch from now on."""
        self._is_over = True

    def wait_for(self, wanted: int, prefix: str, *, seconds: float) -> None:
        """Waits until so many whose names begin with that have been seen.

        Raises:
            TimeoutError: they were not in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.count(prefix) >= wanted, seconds):
                raise TimeoutError(f"{self.count(prefix)} of {wanted} were {self._phase} within {seconds} s")

    def count(self, prefix: str) -> int:
        return sum(name.startswith(prefix) for name in list(self.seen))

    def _run(self) -> None:
        pool = urllib3.PoolManager(ca_certs=self._credentials.ca_path)
        path = resources.BY_PLURAL[names.DISK_MIGRATIONS].path()
        query = f"watch=true&timeoutSeconds=3600&allowWatchBookmarks=true&fieldSelector=status.phase%3D{self._phase}"
        headers = {"Authorization": f"Bearer {self._credentials.token}", "Accept": _METADATA_ONLY}
        while not self._is_over:
            at = f"{query}&resourceVersion={self._resource_version}"
            try:
                answer = pool.request(
                    "GET", f"{self._credentials.server}{path}?{at}", headers=headers, preload_content=False
                )
                rest = b""
                for chunk in answer.stream(65536, decode_content=True):
                    *lines, rest = (rest + chunk).split(b"\n")
                    self._take(lines)
            except urllib3.exceptions.HTTPError:
                if not self._is_over:
                    raise

    def _take(self, lines: list[bytes]) -> None:
        now = time.monotonic()
        with self._changed:
            for line in lines:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    # The apiserver has forgotten that version, and ends the watch: all that is there comes once more.
                    self._resource_version = "0"
                    continue
                self._resource_version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] in ("ADDED", "MODIFIED"):
                    self.seen.setdefault(event["object"]["metadata"]["name"], now)
            self._changed.notify_all()


@dataclass(frozen=True)
class Applied:
    """When each was sent, by name, and how many a second were taken."""

    at: dict[str, float]
    per_second: float


def apply_all(
    admin: Cluster,
    nodes: list[str],
    pair: str,
    namespaces: list[str],
    *,
    count: int,
    rate: float,
    first: int = 0,
) -> Applied:
    """Applies `count` migrations, `rate` a second; the n-th moves a disk of the n-th node, going round."""
    at: dict[str, float] = {}
    start = time.monotonic()

    def apply(number: int) -> None:
        node, name = nodes[number % len(nodes)], f"{pair}-{number:05}"
        body = {
            "metadata": {"name": name, "namespace": namespaces[number % len(namespaces)]},
            "spec": {
                "virtualMachine": {"name": machine_name(node, number // len(nodes))},
                "disk": TARGETS[pair],
                "destination": {"storageDomainName": domain_name(pair, number, "destination")},
                "strategy": "Direct",
            },
        }
        time.sleep(max(0.0, start + (number - first) / rate - time.monotonic()))
        at[name] = time.monotonic()
        admin.create(names.DISK_MIGRATIONS, body, namespace=namespaces[number % len(namespaces)])

    with ThreadPoolExecutor(APPLIERS) as appliers:
        for applied in [appliers.submit(apply, number) for number in range(first, first + count)]:
            applied.result()
    return Applied(at, count / (time.monotonic() - start))
