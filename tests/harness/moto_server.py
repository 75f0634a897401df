"""moto's S3 server as a process of its own: ``python -m tests.harness.moto_server PORT_FILE``.

Differs from ``moto_server`` in what makes it twice as fast: only S3 is served (no search for the
service that is meant), connections are kept alive, and requests are not logged. Writes the port
it got to PORT_FILE once it listens; ends with its parent.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

PR_SET_PDEATHSIG = 1


class Handler(MotoRequestHandler):
    """Keeps connections alive and silent."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_request(self, *args: Any) -> None:
        pass


def main(port_file: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server(
        "127.0.0.1", 0, create_backend_app("s3"), threaded=True, request_handler=Handler
    )
    fresh = Path(port_file + ".new")
    fresh.write_text(str(server.server_address[1]))
    os.replace(fresh, port_file)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
