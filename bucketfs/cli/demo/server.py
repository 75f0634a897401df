"""The demo's S3 server, in a process of its own: ``python -m bucketfs.cli.demo.server``.

Prints its address on one line, serves moto on 127.0.0.1 until its standard input ends (which
happens when the demo ends, however it ends).
"""

from __future__ import annotations

import logging
import sys

from moto.server import ThreadedMotoServer


def main() -> None:
    """Serve until standard input ends."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    try:
        sys.stdin.read()
    except KeyboardInterrupt:
        # Ctrl-C reaches the whole group; the demo unmounts first and then closes our input.
        sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
