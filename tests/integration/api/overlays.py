"""The kustomizations that docs/how-to/install.md shows, beside those of the project."""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[3]

_SHOWN = re.compile(r"^```yaml\n# (?P<path>deploy/\S+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)


def write_documented(directory: Path) -> Path:
    """Copy the project's manifests to the directory, with the files that the document shows; return its overlays."""
    for name in ("crds", "deploy"):
        shutil.copytree(ROOT / name, directory / name)
    for file in _SHOWN.finditer((ROOT / "docs" / "how-to" / "install.md").read_text()):
        path = directory / file["path"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(file["text"])
    return directory / "deploy" / "overlays"
