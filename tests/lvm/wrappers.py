"""Commands of LVM that do what they always do, and once something beside it."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_COMMANDS = ("lvcreate", "lvextend")
# An armed file is taken by one run alone: renaming it can succeed for one only.
_WRAPPER = """\
#!/bin/bash
armed="{directory}/{command}"
if mv "$armed.dies" "$armed.died" 2>/dev/null; then
    /usr/sbin/{command} "$@"
    kill -KILL "$PPID"
    exit 1
fi
if mv "$armed.fails" "$armed.failed" 2>/dev/null; then
    echo "  Volume group lock failed: another command holds it" >&2
    exit 5
fi
for hold in $(cd "{directory}" && compgen -G "{command}.held-*"); do
    while [[ " $* " == *" ${{hold#*.held-}}/"* && -e "{directory}/$hold" ]]; do
        sleep 0.05
    done
done
exec /usr/sbin/{command} "$@"
"""


@dataclass(frozen=True)
class Wrappers:
    """The directory that goes first on the agent's PATH."""

    root: Path

    @property
    def directory(self) -> Path:
        """Where the commands are."""
        return self.root / "bin"

    def install(self) -> None:
        """Makes the commands; none is armed."""
        self.directory.mkdir(parents=True)
        for command in _COMMANDS:
            _write(self.directory / command, _WRAPPER.format(directory=self.root, command=command))

    def kill_caller_after(self, command: str) -> None:
        """The next run of the command does all it has to, and then kills the agent, which never hears of it."""
        (self.root / f"{command}.dies").touch()

    def has_killed(self, command: str) -> bool:
        """Whether it has."""
        return (self.root / f"{command}.died").exists()

    def fail_once(self, command: str) -> None:
        """The next run of the command does nothing and fails."""
        (self.root / f"{command}.fails").touch()

    def has_failed(self, command: str) -> bool:
        """Whether it has."""
        return (self.root / f"{command}.failed").exists()

    @contextmanager
    def held(self, command: str, group: str) -> Iterator[None]:
        """For the block the command does not begin on the volumes of that group."""
        hold = self.root / f"{command}.held-{group}"
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    @contextmanager
    def slow(self, *commands: str, seconds: int) -> Iterator[None]:
        """For the block each run of the commands, which are none of those that can be armed, takes so much longer."""
        for command in commands:
            _write(self.directory / command, f'#!/bin/sh\nsleep {seconds}\nexec /usr/sbin/{command} "$@"\n')
        try:
            yield
        finally:
            for command in commands:
                (self.directory / command).unlink()

    def disarm(self) -> None:
        """As they were at first."""
        for kind in ("dies", "died", "fails", "failed"):
            for left in self.root.glob(f"*.{kind}"):
                left.unlink()


def _write(wrapper: Path, text: str) -> None:
    wrapper.write_text(text)
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
