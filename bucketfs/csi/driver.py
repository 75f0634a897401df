"""The entry point of ``bucketfs-csi``: its command line."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc

from bucketfs import log as logs
from bucketfs.cli.options import arguments, manual
from bucketfs.csi import mounter, service, volume
from bucketfs.csi.controller import Controller
from bucketfs.csi.identity import Identity
from bucketfs.csi.mounter import Mounter
from bucketfs.csi.node import Node
from bucketfs.csi.proto import csi_pb2_grpc
from bucketfs.csi.refused import Refused
from bucketfs.csi.talk import MounterClient
from bucketfs.csi.volume import Defaults
from bucketfs.options import Options
from bucketfs.units import parse_duration

_USAGE = 2
_SOCKET = "/run/bucketfs-csi/mounter.sock"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one part of the driver until it is told to end; the exit code."""
    found = _parser().parse_args(argv)
    logs.setup(
        Options(
            bucket="",
            mountpoint="",
            foreground=True,
            log_format=found.log_format,
            instance_name=f"csi-{found.part}",
        )
    )
    logs.set_level(found.level)
    try:
        if found.part == "mounter":
            served = Mounter(found.state, found.cache, found.recount)
            mounter.run(found.socket, served, end_mounts=found.end_mounts)
        else:
            _serve(found)
    except (Refused, OSError) as error:
        print(f"bucketfs-csi: {error}", file=sys.stderr)
        return _USAGE if isinstance(error, Refused) else 1
    return 0


def _serve(found: argparse.Namespace) -> None:
    """Run the Identity service and one of the others. Raises Refused for wrong options."""
    words = tuple(word for text in found.options for word in arguments.split_list(text))
    defaults = Defaults(words, own_keys=found.own_keys)
    volume.kernel_words(volume.parsed("bucket:/", words))

    def register(server: grpc.Server) -> None:
        csi_pb2_grpc.add_IdentityServicer_to_server(Identity(), server)
        if found.part == "controller":
            csi_pb2_grpc.add_ControllerServicer_to_server(Controller(defaults), server)
        else:
            node = Node(found.node_id, MounterClient(found.socket), defaults)
            csi_pb2_grpc.add_NodeServicer_to_server(node, server)

    # before any thread is started, which would take the signals that the first one waits for
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    service.run(found.endpoint, register)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bucketfs-csi",
        description="Buckets as volumes of a container orchestrator (Container Storage Interface).",
    )
    parser.add_argument("--version", action="version", version=manual.version())
    parts = parser.add_subparsers(dest="part", required=True)
    node = parts.add_parser("node", help="publish volumes on this node; has to be privileged")
    controller = parts.add_parser("controller", help="make and delete volumes")
    served = parts.add_parser("mounter", help="serve what the node's part mounts; needs no rights")
    node.add_argument("--node-id", required=True, metavar="NAME", help="name of this node")
    for part in (node, controller):
        part.add_argument("--endpoint", required=True, metavar="PATH", help="socket to serve")
        part.add_argument(
            "-o",
            dest="options",
            action="append",
            default=[],
            metavar="NAME=VALUE,...",
            help="options of all volumes, such as url=https://s3.example.com",
        )
        part.add_argument(
            "--own-keys",
            action="store_true",
            help="volumes without a secret may use the keys of the driver's own pods",
        )
    for part in (node, served):
        part.add_argument(
            "--socket",
            type=Path,
            default=Path(_SOCKET),
            metavar="PATH",
            help="where the node's part and the mounter meet (default: %(default)s)",
        )
    served.add_argument(
        "--state",
        type=Path,
        default=Path("/run/bucketfs-mounter"),
        metavar="DIR",
        help="records and keys of mounts, best in memory (default: %(default)s)",
    )
    served.add_argument(
        "--cache",
        type=Path,
        default=Path("/var/cache/bucketfs"),
        metavar="DIR",
        help="the caches of mounts (default: %(default)s)",
    )
    served.add_argument(
        "--recount",
        type=parse_duration,
        default=parse_duration("1h"),
        metavar="TIME",
        help="how often the bytes of a volume are counted, by a listing; 0: never (default: 1h)",
    )
    served.add_argument(
        "--end-mounts",
        action="store_true",
        help="at the end save and end all mounts, too: where nothing outlives the mounter",
    )
    for part in (node, controller, served):
        part.add_argument("--log-format", choices=("json", "plain"), default="json")
        part.add_argument("--level", default="info", help="as dbglevel (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
