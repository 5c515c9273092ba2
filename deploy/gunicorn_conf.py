"""Gunicorn's hooks for the portal; its other settings stand in deploy/product.py."""

import socket
import struct
from typing import Any

READ_TIMEOUT = 5  # seconds for which a client may send nothing in the middle of a request


def when_ready(server: Any) -> None:
    """Give up clients that stall.

    Gunicorn's threads wait for the rest of a request without end: as many stalled clients as there
    are threads would silence the portal. Connections inherit this limit from their listener.
    """
    for listener in server.LISTENERS:
        limit = struct.pack("@ll", READ_TIMEOUT, 0)
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
