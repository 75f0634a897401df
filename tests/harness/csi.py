"""The driver of bucketfs-csi as an orchestrator sees it: its three programs, and calls of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

from bucketfs.cli import mounts
from bucketfs.csi.proto import csi_pb2 as csi
from bucketfs.csi.proto import csi_pb2_grpc
from tests.harness.endpoint import REPOSITORY, Endpoint
from tests.harness.mounts import WITHOUT_RIGHTS
from tests.harness.waiting import until

#: Seconds for a start, on a busy machine, and for a call.
START, CALL = 60.0, 60.0

Mode = csi.VolumeCapability.AccessMode


class Program:
    """A part of the driver that runs.

    Args:
        log: What it says is written there.
        words: Its command line.
        under: Another program that starts it.
    """

    def __init__(self, log: Path, *words: object, under: tuple[str, ...] = ()) -> None:
        self._log = log
        command = (*under, sys.executable, "-m", "bucketfs.csi.driver")
        self._command = [*command, *map(str, words)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        before = self.log().count("listening at")
        environ = {name: text for name, text in os.environ.items() if not name.startswith("AWS_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=REPOSITORY, env=environ, stdout=log, stderr=log
            )
        process = self._process
        until(
            lambda: process.poll() is not None or self.log().count("listening at") > before,
            "the driver listens",
            timeout=START,
        )
        assert process.poll() is None, self.log()

    def also(self, *words: str) -> None:
        """Start it with more words from now on."""
        self._command += words

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it as its container's end does; its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(30)

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""


class Driver:
    """All of the driver on one machine.

    Args:
        endpoint: Of the buckets.
        scratch: A directory with a short path, for sockets.
        options: Options of all volumes, beside the endpoint's.
    """

    def __init__(self, endpoint: Endpoint, scratch: Path, *options: str) -> None:
        self.endpoint = endpoint
        self.scratch = scratch
        words = ",".join(
            (f"url={endpoint.url}", f"region={endpoint.region}", "use_path_request_style", *options)
        )
        meeting = scratch / "mounter.sock"
        self.node_socket, self.controller_socket = scratch / "node.sock", scratch / "ctl.sock"
        self.mounter = Program(
            scratch / "mounter.log",
            *("mounter", "--socket", meeting, "--state", scratch / "state"),
            *("--cache", scratch / "cache"),
            under=WITHOUT_RIGHTS,
        )
        self.node = Program(
            scratch / "node.log",
            *("node", "--node-id", "node-1", "--socket", meeting),
            *("--endpoint", self.node_socket, "-o", words),
        )
        self.controller = Program(
            scratch / "controller.log",
            *("controller", "--endpoint", self.controller_socket, "-o", words),
        )

    @property
    def secrets(self) -> dict[str, str]:
        """Keys as Datashim has them."""
        return {
            "accessKeyID": self.endpoint.access_key,
            "secretAccessKey": self.endpoint.secret_key,
        }

    def start(self) -> None:
        for program in (self.mounter, self.node, self.controller):
            program.start()

    def down(self) -> None:
        """Leave nothing behind."""
        for mount in mounts.current():
            if mount.target.startswith(f"{self.scratch}/"):
                subprocess.run(["umount", "-l", mount.target], check=False, capture_output=True)
        for program in (self.controller, self.node, self.mounter):
            with suppress(AssertionError):
                program.stop()
        for record in (self.scratch / "state").glob("*/mount.json"):
            with suppress(ProcessLookupError, FileNotFoundError):
                os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL)

    def call(self, name: str, request: Any) -> Any:
        """Call a method of the node or of the controller. Raises grpc.RpcError."""
        is_node = name.startswith("Node")
        socket = self.node_socket if is_node else self.controller_socket
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            stub = csi_pb2_grpc.NodeStub if is_node else csi_pb2_grpc.ControllerStub
            return getattr(stub(channel), name)(request, timeout=CALL)

    def publish(
        self,
        target: Path,
        volume: str = "vol",
        *,
        mode: int = Mode.MULTI_NODE_MULTI_WRITER,
        flags: tuple[str, ...] = (),
        group: str = "",
        readonly: bool = False,
        secrets: dict[str, str] | None = None,
        **attributes: str,
    ) -> None:
        """NodePublishVolume."""
        mount = csi.VolumeCapability.MountVolume(mount_flags=flags, volume_mount_group=group)
        request = csi.NodePublishVolumeRequest(
            volume_id=volume,
            target_path=str(target),
            volume_capability=csi.VolumeCapability(mount=mount, access_mode=Mode(mode=mode)),
            readonly=readonly,
            secrets=self.secrets if secrets is None else secrets,
            volume_context={
                "csi.storage.k8s.io/pod.name": "pod-1",
                **{name.replace("__", "-"): value for name, value in attributes.items()},
            },
        )
        self.call("NodePublishVolume", request)

    def unpublish(self, target: Path, volume: str = "vol") -> None:
        """NodeUnpublishVolume."""
        request = csi.NodeUnpublishVolumeRequest(volume_id=volume, target_path=str(target))
        self.call("NodeUnpublishVolume", request)
