"""The Identity service: who the driver is, and what of it runs here."""

from __future__ import annotations

from collections.abc import Sequence

from bucketfs.cli.options import manual
from bucketfs.csi.proto import csi_pb2 as csi
from bucketfs.csi.proto.csi_pb2_grpc import IdentityServicer

#: The name that StorageClasses and volumes give as their driver's.
NAME = "csi.bucketfs"

_Service = csi.PluginCapability.Service


class Identity(IdentityServicer):
    """Answers the orchestrator's first questions. The methods' names are the interface's."""

    def GetPluginInfo(self, request: object, context: object) -> csi.GetPluginInfoResponse:
        return csi.GetPluginInfoResponse(name=NAME, vendor_version=manual.version())

    def GetPluginCapabilities(
        self, request: object, context: object
    ) -> csi.GetPluginCapabilitiesResponse:
        told: Sequence[csi.PluginCapability] = [
            csi.PluginCapability(service=_Service(type=_Service.CONTROLLER_SERVICE))
        ]
        return csi.GetPluginCapabilitiesResponse(capabilities=told)

    def Probe(self, request: object, context: object) -> csi.ProbeResponse:
        return csi.ProbeResponse()
