"""The base image, made from Debian's packages where no registry can be asked for it."""

import sys
import tempfile
from pathlib import Path

from testbed import processes
from testbed.images.storage import Storage
from testbed.processes import TestbedError

BASE_NAME = "docker.io/library/debian:bookworm-slim"

_RELEASE = "bookworm"
_TIMEOUT_SECONDS = 900
_DOCKERFILE = """\
FROM scratch
ADD base.tar /
CMD ["bash"]
"""
# What the public base does to stay slim: no documentation, no translations, no packages that were installed already.
_DPKG_SETTINGS = """\
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/groff/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
"""
APT_SETTINGS = """\
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Acquire::Languages "none";
"""
_UNNEEDED = (
    *("var/cache/apt", "var/lib/apt/lists", "var/log", "var/cache/ldconfig/aux-cache"),
    *("usr/share/doc", "usr/share/groff", "usr/share/info", "usr/share/locale", "usr/share/man"),
)


def ensure_base(storage: Storage) -> None:
    """Make the base in `storage` where it is missing: a minimal Debian 12, of the mirror that this machine's apt uses.

    Raises:
        TestbedError: apt names no mirror of Debian, or debootstrap failed.
    """
    if storage.has(BASE_NAME):
        return
    print("Making the images' base with debootstrap (once)", file=sys.stderr, flush=True)
    mirror, security = _mirrors()
    with tempfile.TemporaryDirectory(dir=storage.scratch) as scratch:
        root = Path(scratch) / "root"
        processes.run(["debootstrap", "--variant=minbase", _RELEASE, root, mirror], timeout_seconds=_TIMEOUT_SECONDS)
        sources = [f"deb {mirror} {_RELEASE} main", f"deb {mirror} {_RELEASE}-updates main"]
        if security is not None:
            sources.append(f"deb {security} {_RELEASE}-security main")
        (root / "etc/apt/sources.list").write_text("\n".join(sources) + "\n")
        (root / "etc/apt/apt.conf.d/slim").write_text(APT_SETTINGS)
        (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(_DPKG_SETTINGS)
        # This machine's own, which every build and every pod gets anew.
        for name in ("etc/hostname", "etc/resolv.conf"):
            (root / name).unlink(missing_ok=True)
        # Their folders stay: some programs expect theirs.
        unneeded = [root / name for name in _UNNEEDED if (root / name).exists()]
        processes.run(["find", *unneeded, "!", "-type", "d", "!", "-name", "copyright", "-delete"])
        context = Path(scratch) / "context"
        context.mkdir()
        processes.run(
            [
                "tar",
                "--create",
                "--numeric-owner",
                "--xattrs",
                f"--file={context / 'base.tar'}",
                f"--directory={root}",
                ".",
            ]
        )
        (context / "Dockerfile").write_text(_DOCKERFILE)
        storage.build(context, name=BASE_NAME)


def _mirrors() -> tuple[str, str | None]:
    """Return where apt gets Debian from, and its security updates if it gets any."""
    found = _sites()
    if "Debian" not in found:
        # Whose a mirror is stands in the lists, which a fresh machine does not have.
        processes.run(["apt-get", "-q", "update"], timeout_seconds=_TIMEOUT_SECONDS)
        found = _sites()
    if "Debian" not in found:
        raise TestbedError("apt has no mirror of Debian to make the images' base from: add one to its sources.")
    return found["Debian"], found.get("Debian-Security")


def _sites() -> dict[str, str]:
    targets = processes.run(
        ["apt-get", "indextargets", "--format=$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"]
    )
    described = [line.split("|") for line in targets.splitlines()]
    return {label: site for origin, label, site in reversed(described) if origin == "Debian"}
