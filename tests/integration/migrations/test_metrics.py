"""What Prometheus finds at the agent's port is what happened."""

from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.agent.probes import Probes
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import Stack
from tests.waiting import wait_until


def read(probes: Probes) -> Callable[[str, str], float]:
    """The samples as they are now: the value by name and storage domain."""
    status, text = probes.ask("metrics")
    assert status == 200
    samples = {
        (sample.name, sample.labels.get("storage_domain", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("diskmigration_") and not sample.name.endswith("_bucket")
    }
    return lambda name, domain: samples.get((f"diskmigration_{name}", domain), 0.0)


def test_a_move_is_counted(stack: Stack, machines: Callable[..., Machine], probes: Probes) -> None:
    before = read(probes)
    machine = machines("loop-a", volume_bytes=24 * MEBIBYTE)
    wait_until(lambda: read(probes)("volumes_watched", "") == 1, "its volume is watched")
    for offset in range(10, 26, 2):
        machine.write(offset=offset * MEBIBYTE, length=2 * MEBIBYTE, pattern=7)
    wait_until(
        lambda: read(probes)("extensions_total", "loop-a") > before("extensions_total", "loop-a"), "it was extended"
    )

    migration = stack.migrate(machine, "loop-b", cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")
    assert read(probes)("migrations_active", "") == 1
    migration.patch({"cutover": {"policy": "Automatic"}})
    progress = migration.succeed()["progress"]

    wait_until(lambda: read(probes)("migrations_active", "") == 0, "nothing is at work")
    after = read(probes)
    assert after("copied_bytes_total", "") - before("copied_bytes_total", "") == progress["copiedBytes"]
    for domain in ("loop-a", "loop-b"):
        assert after("extension_seconds_count", domain) == after("extensions_total", domain)
    seconds = after("extension_seconds_sum", "loop-a") - before("extension_seconds_sum", "loop-a")
    assert 0 < seconds < 60
    assert after("libvirt_up", "") == 1
