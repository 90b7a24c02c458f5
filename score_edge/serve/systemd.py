"""A unit for systemd that runs a server at every start of the machine, as the user who asked for it."""

import getpass
import os
from pathlib import Path

_UNIT = """\
# score-edge serve ... --systemd | sudo tee /etc/systemd/system/score-edge.service
# sudo systemctl daemon-reload && sudo systemctl enable --now score-edge
[Unit]
Description=score-edge: a video language model for this network
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={command}
{environment}# What is secret goes into this file, readable by root only: SCORE_EDGE_KEY=... and SCORE_EDGE_MQTT=mqtt://user:password@...
EnvironmentFile=-/etc/score-edge.env
Restart=always
RestartSec=2
# Stopped while it still loads.
SuccessExitStatus=143
User={user}
SupplementaryGroups=video render
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""


def systemd_unit(command: list[str]) -> str:
    """The unit as text.

    Args:
        command: that serves, word by word; paths in it absolute.

    Example:
        >>> "--port 8090" in systemd_unit(["score-edge", "serve", "/srv/my bundle", "--port", "8090"])
        True
    """
    # Where this user's engines are: systemd starts with no variables of a shell.
    cache = os.environ.get("XDG_CACHE_HOME", "")
    environment = f"Environment={_quoted(f'XDG_CACHE_HOME={cache}')}\n" if Path(cache).is_absolute() else ""
    words = " ".join(_quoted(word).replace("$", "$$") for word in command)  # variables are read in commands alone
    return _UNIT.format(user=getpass.getuser(), command=words, environment=environment)


def _quoted(word: str) -> str:
    """A word as systemd reads it: specifiers and quotes are its own."""
    plain = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%")
    return plain if word and all(c.isalnum() or c in "-_./:=" for c in word) else f'"{plain}"'
