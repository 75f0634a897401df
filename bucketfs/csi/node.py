"""The Node service: publishes volumes on this node. It mounts; the mounter serves.

It remembers nothing itself: what is mounted stands in the kernel's table, and why in the mounter's
records, so that a driver that is started anew goes on where the one before was.
"""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext, suppress

import grpc
from grpc import StatusCode

from bucketfs.cli import mounts
from bucketfs.csi import points, volume
from bucketfs.csi.pending import Pending
from bucketfs.csi.proto import csi_pb2 as csi
from bucketfs.csi.proto.csi_pb2_grpc import NodeServicer
from bucketfs.csi.records import Record
from bucketfs.csi.refused import Refused
from bucketfs.csi.talk import MounterClient
from bucketfs.csi.volume import Defaults, Wanted

log = logging.getLogger("bucketfs.csi.node")

_Entry = csi.VolumeHealth.VolumeHealthEntry
_RPC = csi.NodeServiceCapability.RPC
_CAPABILITIES = (
    _RPC.GET_VOLUME_STATS,
    _RPC.GET_VOLUME_HEALTH,
    _RPC.VOLUME_MOUNT_GROUP,
    _RPC.SINGLE_NODE_MULTI_WRITER,
)
#: Seconds before the end of a call in which it must be answered.
_MARGIN = 5.0
#: Seconds that an unmounted volume is waited for, if the call sets no limit.
_SAVING = 60.0


class Node(NodeServicer):
    """Publishes volumes. The methods' names are the interface's; each raises Refused.

    Args:
        node_id: Of this node.
        mounter: Serves what is mounted.
        defaults: What the administrator has set for all volumes.
    """

    def __init__(self, node_id: str, mounter: MounterClient, defaults: Defaults) -> None:
        self._node_id = node_id
        self._mounter = mounter
        self._defaults = defaults
        self._pending = Pending()
        #: Volumes of a single writer, which may be asked for at several paths at once.
        self._single = Pending()

    def NodeGetInfo(self, request: object, context: object) -> csi.NodeGetInfoResponse:
        return csi.NodeGetInfoResponse(node_id=self._node_id)

    def NodeGetCapabilities(
        self, request: object, context: object
    ) -> csi.NodeGetCapabilitiesResponse:
        told = [csi.NodeServiceCapability(rpc=_RPC(type=each)) for each in _CAPABILITIES]
        return csi.NodeGetCapabilitiesResponse(capabilities=told)

    def NodePublishVolume(
        self, request: csi.NodePublishVolumeRequest, context: object
    ) -> csi.NodePublishVolumeResponse:
        wanted = volume.wanted(request, self._defaults)
        with self._pending.alone(wanted.target):
            if not self._is_published(wanted):
                with self._single.alone(wanted.volume) if wanted.single_writer else nullcontext():
                    self._publish(wanted)
        return csi.NodePublishVolumeResponse()

    def _is_published(self, wanted: Wanted) -> bool:
        """Whether it is there already; a dead mount in its place is taken away."""
        found = points.mounted(wanted.target)
        if found is None:
            return False
        if found.type != mounts.TYPE:
            line = f"{wanted.target}: {found.source} ({found.type}) is mounted there"
            raise Refused(StatusCode.FAILED_PRECONDITION, line)
        if points.is_dead(wanted.target):
            log.warning("%s: the process that served it had died", wanted.target)
            points.unmount(wanted.target, lazy=True)
            return False
        record = self._record(wanted.target)
        if record is None or record.fingerprint != wanted.fingerprint:
            line = f"{wanted.target}: is published with other options or as another volume"
            raise Refused(StatusCode.ALREADY_EXISTS, line)
        self._mounter.renew(wanted.target, wanted.keys)
        return True

    def _publish(self, wanted: Wanted) -> None:
        flags, data = volume.kernel_words(wanted.options)
        self._check_single_writer(wanted)
        descriptor = points.mount(wanted.spec, wanted.target, flags, data)
        try:
            self._mounter.start(wanted, descriptor)
        except Refused:
            points.unmount(wanted.target, lazy=True)
            with suppress(Refused):
                points.remove(wanted.target)
            raise
        finally:
            os.close(descriptor)
        log.info("%s: %s is published", wanted.target, wanted.spec)

    def _check_single_writer(self, wanted: Wanted) -> None:
        for record in self._mounter.mounts():
            if record.volume != wanted.volume or points.mounted(record.target) is None:
                continue
            if record.single_writer or wanted.single_writer:
                line = f"{wanted.volume}: is published at {record.target}, for a single writer"
                raise Refused(StatusCode.FAILED_PRECONDITION, line)

    def NodeUnpublishVolume(
        self, request: csi.NodeUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi.NodeUnpublishVolumeResponse:
        volume.required(request, "volume_id", "target_path")
        target = request.target_path
        with self._pending.alone(target):
            while points.mounted(target) is not None:
                points.unmount(target)
                log.info("%s: unmounted", target)
            points.remove(target)
            self._await_end(target, context)
        return csi.NodeUnpublishVolumeResponse()

    def _await_end(self, target: str, context: grpc.ServicerContext) -> None:
        """Wait until all is in the bucket: who reads it next may be on another node."""
        remaining = context.time_remaining()
        seconds = _SAVING if remaining is None else min(_SAVING, max(0.0, remaining - _MARGIN))
        if not self._mounter.ended(target, seconds):
            line = f"{target}: not all is in the bucket yet; the next call waits on"
            raise Refused(StatusCode.ABORTED, line)

    def NodeGetVolumeStats(
        self, request: csi.NodeGetVolumeStatsRequest, context: object
    ) -> csi.NodeGetVolumeStatsResponse:
        volume.required(request, "volume_id", "volume_path")
        record = self._published(request.volume_id, request.volume_path)
        try:
            told = points.capacity(record.target)
        except OSError as error:
            line = f"{record.target}: {error.strerror}; delete the pod, so that it is mounted anew"
            raise Refused(StatusCode.INTERNAL, line) from None
        size = self._mounter.size(record.target)
        return csi.NodeGetVolumeStatsResponse(usage=_usage(told, size))

    def NodeGetVolumeHealth(
        self, request: csi.NodeGetVolumeHealthRequest, context: object
    ) -> csi.NodeGetVolumeHealthResponse:
        volume.required(request, "volume_id")
        target = request.volume_publish_path
        entries = []
        if target and points.mounted(target) is not None and points.is_dead(target):
            line = f"the process that served {target} has died; delete the pod"
            entries.append(_Entry(status=csi.INACCESSIBLE, reason="DaemonDied", message=line))
        elif not any(
            one.volume == request.volume_id and target in ("", one.target)
            for one in self._mounter.mounts()
        ):
            raise volume.no_such_volume(request.volume_id)
        health = csi.VolumeHealth(volume_id=request.volume_id, health_statuses=entries)
        return csi.NodeGetVolumeHealthResponse(volume_health=health)

    def _published(self, volume_id: str, path: str) -> Record:
        record = self._record(path)
        if record is None or record.volume != volume_id:
            line = f"{path}: {volume_id} is not published there"
            raise Refused(StatusCode.NOT_FOUND, line)
        return record

    def _record(self, target: str) -> Record | None:
        return next((one for one in self._mounter.mounts() if one.target == target), None)


def _usage(told: os.statvfs_result, size: tuple[int, int] | None) -> list[csi.VolumeUsage]:
    """Bytes and objects of a volume, beside what its file system tells."""
    total = told.f_blocks * told.f_frsize
    used, objects = size or (max(0, total - told.f_bfree * told.f_frsize), 0)
    return [
        csi.VolumeUsage(
            unit=csi.VolumeUsage.BYTES, total=total, used=used, available=max(0, total - used)
        ),
        csi.VolumeUsage(unit=csi.VolumeUsage.INODES, total=told.f_files, used=objects),
    ]
