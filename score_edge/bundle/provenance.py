"""Where an artefact comes from: its source, the moment, the commit of score-edge and the versions it was made with."""

import dataclasses
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from score_edge.install import distribution_version


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a bundle comes from.

    Attributes:
        source: the checkpoint or recipe it was made from.
        created: ISO 8601 date and time.
        git_commit: commit of score-edge, ``-dirty`` when changed since; empty outside a checkout.
        versions: package to version.
    """

    source: str
    created: str
    git_commit: str
    versions: dict[str, str]

    @staticmethod
    def now(source: str, *packages: str) -> "Provenance":
        """The provenance of something made now, with the versions of score-edge and of these packages.

        A package that is built for GPUs under another name, as onnxruntime-gpu, goes under that; one that is not
        installed is left out.

        Example:
            >>> Provenance.now("Qwen/Qwen2.5-VL-3B-Instruct", "torch", "onnx")  # doctest: +SKIP
        """
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        names = (name for package in ("score-edge", *packages) for name in (package, f"{package}-gpu"))
        versions = {name: version for name in names if (version := distribution_version(name))}
        return Provenance(source, created, git_commit(), versions)

    def after(self, command: str) -> "Provenance":
        """The same with a command noted behind the source; one that ran again is noted once."""
        source, *commands = self.source.split("; ")
        return dataclasses.replace(self, source="; ".join([source, *(c for c in commands if c != command), command]))


def git_commit() -> str:
    """The commit of this checkout of score-edge, ``-dirty`` when files changed since; empty for an installed copy."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # An installed copy may lie inside somebody else's repository, whose commit would be a lie.
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], check=True, capture_output=True)
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
