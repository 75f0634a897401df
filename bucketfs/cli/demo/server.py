"""The demo's S3 server, in a process of its own: ``python -m bucketfs.cli.demo.server``.

Prints its address on one line, serves moto on 127.0.0.1 until its standard input ends (which
happens when the demo ends, however it ends).
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server


class Handler(MotoRequestHandler):
    """Keeps connections alive, as servers do, and logs no requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_request(self, *args: Any) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until standard input ends."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    # only S3, so that no request has to be looked at for the service that it means
    app = create_backend_app("s3")
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    try:
        sys.stdin.read()
    except KeyboardInterrupt:
        # Ctrl-C reaches the whole group; the demo unmounts first and then closes our input.
        sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main()
