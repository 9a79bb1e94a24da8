"""What people see of a key in a customer's own vault."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

Data = dict[str, Any]


def onboarded(data: Data) -> RenderableType:
    """What was bound, then what the customer has to do in their directory and their vault."""
    proved = "the vault says so itself" if data["directory_is_proved"] else "NOT PROVED: the vault cannot be reached"
    lines = [
        f"{data['name']} in {data['vault']} is bound to tenant {data['tenant']} as {data['key']}",
        f"directory  {data['directory']}   ({proved})",
        "",
        "an administrator of the customer installs our application by this link:",
        f"  {data['consent']}",
        "and lets it use the key, by the command line:",
        *(f"  {line}" for line in data["commands"]),
        "or in the portal:",
        *(f"  {line}" for line in data["portal"]),
        "",
        f"next: {data['next']}",
    ]
    return Text("\n".join(lines))
