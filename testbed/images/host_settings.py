"""How this machine reaches package registries, for the commands of a build to see and for no image to keep.

pip's settings become the build's home directory, apt's its configuration: both are mounted over directories that the
base has, so that not even an empty mount point is left.
"""

import ast
import os
import re
import shutil
import sys
from pathlib import Path

from testbed import processes
from testbed.images.base import APT_SETTINGS

_HOME = "/root"
_PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "no-index", "timeout", "retries")
# Those that name files of this machine.
_PIP_PATHS = ("cert", "client-cert", "find-links")
_PIP_SETTING = re.compile(r"^(?P<source>[^.]+)\.(?P<name>[a-z-]+)=(?P<value>.+)$")
# What requests, and so pip, takes where pip is told no authority of its own.
_AUTHORITY_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_APT_SETTINGS = (
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::Retries",
)


def write_host_settings(directory: Path) -> list[str]:
    """Write this machine's settings to `directory`, and return the volumes (`SOURCE:TARGET:ro`) that hand them on."""
    home = directory / "home"
    (home / ".config" / "pip").mkdir(parents=True)
    volumes = [f"{home}:{_HOME}:ro"]
    lines = ["[global]"]
    for name, value in sorted(_pip_settings().items()):
        if name not in _PIP_PATHS:
            lines.append(f"{name} = {value}")
        elif Path(value).is_file():
            shutil.copyfile(value, home / name)
            lines.append(f"{name} = {_HOME}/{name}")
        elif Path(value).is_dir():
            (home / name).mkdir()
            volumes.append(f"{value}:{_HOME}/{name}:ro")
            lines.append(f"{name} = {_HOME}/{name}")
        else:
            lines.append(f"{name} = {value}")
    (home / ".config" / "pip" / "pip.conf").write_text("\n".join(lines) + "\n")
    apt = directory / "apt"
    apt.mkdir()
    (apt / "slim").write_text(APT_SETTINGS)
    (apt / "host").write_text(processes.run(["apt-config", "dump", "--no-empty", *_APT_SETTINGS]))
    volumes.append(f"{apt}:/etc/apt/apt.conf.d:ro")
    return volumes


def _pip_settings() -> dict[str, str]:
    """Return what pip is told here, by its files and its environment, which goes before them."""
    found = {}
    for variable in reversed(_AUTHORITY_VARIABLES):
        if variable in os.environ:
            found["cert"] = os.environ[variable]
    told = [
        match.groupdict()
        for line in processes.run([sys.executable, "-m", "pip", "config", "list"]).splitlines()
        if (match := _PIP_SETTING.match(line))
    ]
    for setting in sorted(told, key=lambda setting: setting["source"] == ":env:"):
        name = setting["name"].removeprefix("default-")
        if name in (*_PIP_SETTINGS, *_PIP_PATHS):
            found[name] = str(ast.literal_eval(setting["value"]))
    return found
