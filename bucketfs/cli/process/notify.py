"""sd_notify(3) without libsystemd: one datagram to the socket systemd named."""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> None:
    """Tell systemd, if it listens: ``READY=1``, ``STATUS=…``, ``STOPPING=1``. Never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect(address)
            sender.send("\n".join(lines).encode())
        except OSError:
            # A service manager that went away must not take the mount with it.
            return
