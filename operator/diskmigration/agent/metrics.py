"""The metrics of an agent and its node; see docs/reference/metrics.md. No label is a VM's or a migration's name."""

from prometheus_client import Counter, Gauge, Histogram

LIBVIRT_CALLS = Counter("diskmigration_libvirt_calls", "Calls to libvirtd, by libvirt's name of the call.", ["call"])
LIBVIRT_UP = Gauge("diskmigration_libvirt_up", "1 while the node's libvirtd answers, else 0.")
LEASE_RENEWAL_FAILURES = Counter("diskmigration_lease_renewal_failures", "Renewals of the agent's Lease that failed.")
MIGRATIONS_ACTIVE = Gauge("diskmigration_migrations_active", "Migrations that the agent works on.")
QEMU_IMG_RUNNING = Gauge("diskmigration_qemu_img_running", "qemu-img processes that run.")
QEMU_IMG_WAITING = Gauge("diskmigration_qemu_img_waiting", "qemu-img processes that wait until others end.")
EXTENSIONS = Counter("diskmigration_extensions", "Extensions of thin volumes.", ["storage_domain"])
EXTENSION_SECONDS = Histogram(
    "diskmigration_extension_seconds",
    "How long it took until a thin volume had grown, from when its threshold was passed.",
    ["storage_domain"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
EXTENSION_LATENCY = Gauge(
    "diskmigration_extension_latency_seconds",
    "The longest extension lately, from the threshold on, as the head room is reckoned with; it fades.",
    ["storage_domain"],
)
WRITE_RATE = Gauge(
    "diskmigration_write_rate_bytes_per_second",
    "The fastest that a thin volume was filled lately, as the head room is reckoned with; it fades.",
    ["storage_domain"],
)
HEAD_ROOM = Gauge(
    "diskmigration_head_room_bytes", "The most that is kept free on a thin volume now.", ["storage_domain"]
)
VOLUMES_DOUBTED = Gauge(
    "diskmigration_volumes_doubted", "Thin volumes that are not extended, as what libvirt reports of them cannot be."
)
VOLUMES_WATCHED = Gauge("diskmigration_volumes_watched", "Thin volumes of running guests that are kept extended.")
GUEST_PAUSES = Counter("diskmigration_guest_pauses", "Guests that were found paused by a full volume.")
COPIED_BYTES = Counter("diskmigration_copied_bytes", "Bytes that migrations copied, mirrors included.")
RESUMED = Counter(
    "diskmigration_paused_guests_resumed", "Guests that a full volume had paused and that were extended and resumed."
)
