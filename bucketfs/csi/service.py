"""The gRPC server at a Unix socket: one line of the log for each call."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc import StatusCode

from bucketfs.csi.refused import Refused

log = logging.getLogger("bucketfs.csi")

#: Calls at once; one may wait for a mount for minutes.
_THREADS = 64
#: Seconds that calls under way get at the end.
_GRACE = 10.0
#: Asked every few seconds by probes.
_QUIET = frozenset({"Probe", "NodeGetCapabilities", "GetPluginInfo", "GetPluginCapabilities"})


class Calls(grpc.ServerInterceptor):  # type: ignore[misc]
    """Logs calls, and answers what they raise with its code.

    No field of a request is logged but a volume's id: requests have secrets.
    """

    def intercept_service(self, continuation: Callable[[Any], Any], call: Any) -> Any:
        handler = continuation(call)
        if handler is None or handler.unary_unary is None:
            return handler
        name = call.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(
            _guarded(name, handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _guarded(name: str, method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def guarded(request: Any, context: Any) -> Any:
        began = time.monotonic()
        code, line = StatusCode.OK, ""
        try:
            return method(request, context)
        except Refused as refused:
            code, line = refused.code, refused.line
        except NotImplementedError:
            code, line = StatusCode.UNIMPLEMENTED, f"{name}: buckets have no such thing"
        except Exception as error:
            # whatever it is: the caller is told, and the log has the rest
            log.critical("%s: internal error", name, exc_info=error)
            code, line = StatusCode.INTERNAL, f"{name}: internal error; see the driver's log"
        finally:
            took = time.monotonic() - began
            _tell(name, getattr(request, "volume_id", ""), code, line, took)
        context.abort(code, line)
        return None

    return guarded


def _tell(name: str, volume: str, code: StatusCode, line: str, took: float) -> None:
    if code is not StatusCode.OK:
        log.warning("%s %s: %s: %s (%.2f s)", name, volume, code.name, line, took)
    elif name not in _QUIET:
        log.info("%s %s: OK (%.2f s)", name, volume, took)


def run(endpoint: str, register: Callable[[grpc.Server], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        endpoint: A path, with or without ``unix:`` before it.
        register: Adds the services.
    """
    path = endpoint.removeprefix("unix:").replace("//", "", 1)
    server = grpc.server(ThreadPoolExecutor(_THREADS), interceptors=[Calls()])
    register(server)
    if os.path.lexists(path):
        os.unlink(path)  # of the driver before
    mask = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
        server.start()
    finally:
        os.umask(mask)
    log.info("listening at %s", path)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop(_GRACE).wait()
