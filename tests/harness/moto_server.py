"""moto's S3 server as a process of its own: ``python -m tests.harness.moto_server PORT_FILE``.

Differs from ``moto_server`` in what makes it twice as fast: only S3 is served (no search for the
service that is meant), connections are kept alive, and requests are not logged. Conditional writes
are atomic, as at Amazon. It also says when a multipart upload was begun, where moto 5 answers the
same day of 2010 for each. Writes the port it got to PORT_FILE once it listens; ends with its
parent.
"""

from __future__ import annotations

import ctypes
import io
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flask import Flask, Response, request
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import make_server

from bucketfs.cli.demo.server import Handler

PR_SET_PDEATHSIG = 1

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def one_after_the_other(app: Application) -> Application:
    """Have each conditional write see what the last one has stored.

    moto compares and stores without a lock: two threads may both find that their condition is true.
    """
    turn = threading.Lock()

    def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        conditional = "HTTP_IF_MATCH" in environ or "HTTP_IF_NONE_MATCH" in environ
        if not conditional or environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return app(environ, start_response)
        # what has not come yet is waited for outside: its sender may have been cut off
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        with turn:
            return app(environ, start_response)

    return serve


def say_when_uploads_began(app: Flask) -> None:
    """Have the answers about unfinished uploads give the time each was first heard of."""
    began: dict[bytes, bytes] = {}

    @app.after_request
    def date(response: Response) -> Response:
        if "uploads" in request.args:
            now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()).encode()
            for upload_id in re.findall(rb"<UploadId>(.+?)</UploadId>", response.data):
                began.setdefault(upload_id, now)
            response.data = re.sub(rb"<Upload>.*?</Upload>", dated, response.data, flags=re.DOTALL)
        return response

    def dated(upload: re.Match[bytes]) -> bytes:
        (upload_id,) = re.findall(rb"<UploadId>(.+?)</UploadId>", upload[0])
        initiated = b"<Initiated>%b</Initiated>" % began[upload_id]
        return re.sub(rb"<Initiated>.*?</Initiated>", initiated, upload[0])


def main(port_file: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = create_backend_app("s3")
    say_when_uploads_began(app)
    served = one_after_the_other(app)
    server = make_server("127.0.0.1", 0, served, threaded=True, request_handler=Handler)
    fresh = Path(port_file + ".new")
    fresh.write_text(str(server.server_address[1]))
    os.replace(fresh, port_file)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
