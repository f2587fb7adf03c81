"""How a VM and the storage domains were, which a migration that fails before the pivot has to leave so."""

from dataclasses import dataclass

from tests.integration.migrations.machines import Domain, Machine
from tests.waiting import wait_until


@dataclass(frozen=True)
class AsItWas:
    """The chain, by both XMLs, and the files of the domains."""

    machine: Machine
    chain: list[tuple[str, str]]
    inactive_chain: list[tuple[str, str]]
    files: dict[Domain, list[str]]

    @classmethod
    def of(cls, machine: Machine, *domains: Domain) -> "AsItWas":
        """As all is now."""
        files = {domain: domain.files() for domain in domains}
        return cls(machine, machine.chain(), machine.chain(inactive=True), files)

    def assert_so_again(self) -> None:
        """The VM has its chain and all its data, and nothing of a migration is left."""
        machine = self.machine
        assert machine.chain() == self.chain
        assert machine.chain(inactive=True) == self.inactive_chain
        assert "mirror" not in machine.xml()
        for domain, files in self.files.items():
            left = domain.files()
            assert left == files, f"{domain.name} has {left}, and had {files}"
        wait_until(lambda: not machine.has_journal(), "the disk is free")
        machine.verify()
