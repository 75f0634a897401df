"""sd_notify(3) without libsystemd: one datagram to the socket systemd named."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import trio


def notify(*lines: str, descriptors: Sequence[int] = ()) -> bool:
    """Tell systemd, if it listens: ``READY=1``, ``STATUS=…``, ``STOPPING=1``. Never raises.

    `descriptors` go along (``FDSTORE=1``).

    Returns:
        Whether it is there to listen.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect(address)
            socket.send_fds(sender, ["\n".join(lines).encode()], descriptors)
        except OSError:
            # A service manager that went away must not take the mount with it.
            return False
    return True


def watchdog_pace() -> float | None:
    """Seconds between two signs of life: half of what systemd allows, None if it wants none.

    As sd_watchdog_enabled(3) reads its environment.
    """
    allowed = os.environ.get("WATCHDOG_USEC", "")
    if not allowed.isdecimal() or int(allowed) == 0:
        return None
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(allowed) / 2_000_000


async def keep_alive() -> None:
    """Show systemd's watchdog, if there is one, that the event loop turns; ends when cancelled."""
    pace = watchdog_pace()
    while pace is not None:
        notify("WATCHDOG=1")
        await trio.sleep(pace)
