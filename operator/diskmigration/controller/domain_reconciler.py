"""One step for one StorageDomain: its status says what the nodes report."""

from datetime import UTC, datetime

from diskmigration.api import names
from diskmigration.cluster.client import Cluster
from diskmigration.controller import domain_statuses
from diskmigration.controller.books import Books
from diskmigration.controller.request import Request


async def reconcile_domain(name: str, *, cluster: Cluster, books: Books, request: Request) -> None:
    """Write a StorageDomain's status if it is not what the nodes report.

    Raises:
        ClusterError: the step could not be made; make it again.
    """
    record = books.inventory.domain(name)
    if record is None:
        return
    reports = books.inventory.reports(name)
    sharers = {
        node: books.inventory.unlocked_sharers(report.volume_group.uuid)
        for node, report in reports.items()
        if report.volume_group is not None
    }
    now = datetime.now(UTC).replace(microsecond=0)
    wanted = domain_statuses.status_of(record, reports, now, unlocked_sharers=sharers)
    if wanted == record.status:
        return
    body = await request(
        cluster.apply_status,
        names.STORAGE_DOMAINS,
        name,
        wanted.to_wire(),
        uid=record.metadata.uid,
        field_manager=names.OPERATOR_FIELD_MANAGER,
    )
    books.observe_domain(body)
