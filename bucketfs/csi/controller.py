"""The Controller service: makes and deletes volumes, which are directories of buckets.

A volume's id is its place. What else is known of it stands in its mark (`provision`), so that any
controller can delete what another has made.
"""

from __future__ import annotations

import logging

from grpc import StatusCode

from bucketfs.csi import volume
from bucketfs.csi.pending import Pending
from bucketfs.csi.proto import csi_pb2 as csi
from bucketfs.csi.proto.csi_pb2_grpc import ControllerServicer
from bucketfs.csi.provision import Mark, Provisioner
from bucketfs.csi.refused import Refused, invalid
from bucketfs.csi.volume import Defaults, Made
from bucketfs.csi.volume_keys import VolumeKeys, of_secrets

log = logging.getLogger("bucketfs.csi.controller")

_RPC = csi.ControllerServiceCapability.RPC
#: Parameter of StorageClasses whose volumes are there already, as Datashim's are.
_EXISTING = "existing"
_CAPABILITIES = (_RPC.CREATE_DELETE_VOLUME, _RPC.SINGLE_NODE_MULTI_WRITER)


class Controller(ControllerServicer):
    """Makes and deletes volumes. The methods' names are the interface's; each raises Refused.

    Args:
        defaults: What the administrator has set for all volumes.
    """

    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults
        self._pending = Pending()

    def ControllerGetCapabilities(
        self, request: object, context: object
    ) -> csi.ControllerGetCapabilitiesResponse:
        told = [csi.ControllerServiceCapability(rpc=_RPC(type=each)) for each in _CAPABILITIES]
        return csi.ControllerGetCapabilitiesResponse(capabilities=told)

    def CreateVolume(
        self, request: csi.CreateVolumeRequest, context: object
    ) -> csi.CreateVolumeResponse:
        volume.required(request, "name", "volume_capabilities")
        for capability in request.volume_capabilities:
            volume.check_capability(capability)
        if request.HasField("volume_content_source") or request.mutable_parameters:
            raise invalid("a volume can neither be made from another nor be modified")
        attributes = volume.own_attributes(request.parameters)
        named, prefix = attributes.pop("bucket", ""), attributes.pop("prefix", "")
        existing = attributes.pop(_EXISTING, "")
        _check_options(attributes)
        keys = of_secrets(request.secrets, named)
        if existing == "true":
            return csi.CreateVolumeResponse(volume=_existing(request, keys, attributes))
        shared = named or keys.bucket
        place = volume.to_make(request.name, shared, prefix if named else keys.prefix or prefix)
        mark = Mark(_size(request.capacity_range), not shared, attributes)
        with self._pending.alone(place.volume_id):
            found = self._provisioner(keys, place).make(mark)
        if not _fits(found, request.capacity_range) or found.attributes != attributes:
            line = f"{place.volume_id}: is there already, with another size or other options"
            raise Refused(StatusCode.ALREADY_EXISTS, line)
        log.info("%s is made", place.volume_id)
        return csi.CreateVolumeResponse(volume=_told(place, found))

    def DeleteVolume(
        self, request: csi.DeleteVolumeRequest, context: object
    ) -> csi.DeleteVolumeResponse:
        volume.required(request, "volume_id")
        place = volume.made(request.volume_id)
        if place is not None:
            keys = of_secrets(request.secrets, place.bucket)
            with self._pending.alone(place.volume_id):
                self._provisioner(keys, place).delete()
            log.info("%s is deleted", place.volume_id)
        return csi.DeleteVolumeResponse()

    def ValidateVolumeCapabilities(
        self, request: csi.ValidateVolumeCapabilitiesRequest, context: object
    ) -> csi.ValidateVolumeCapabilitiesResponse:
        volume.required(request, "volume_id", "volume_capabilities")
        place = volume.made(request.volume_id)
        keys = of_secrets(request.secrets, place.bucket if place else "")
        if place is None or self._provisioner(keys, place).find() is None:
            raise volume.no_such_volume(request.volume_id)
        for capability in request.volume_capabilities:
            if reason := volume.unable(capability):
                return csi.ValidateVolumeCapabilitiesResponse(message=reason)
        confirmed = csi.ValidateVolumeCapabilitiesResponse.Confirmed(
            volume_context=request.volume_context,
            volume_capabilities=request.volume_capabilities,
            parameters=request.parameters,
        )
        return csi.ValidateVolumeCapabilitiesResponse(confirmed=confirmed)

    def _provisioner(self, keys: VolumeKeys, place: Made) -> Provisioner:
        if not keys.text and not self._defaults.own_keys:
            raise invalid(
                "there are no keys: name a secret in the StorageClass"
                " (csi.storage.k8s.io/provisioner-secret-name), or start the driver with --own-keys"
            )
        words = [*self._defaults.words, *(word for word in keys.words if word != "ro")]
        return Provisioner(tuple(words), keys.text, place)


def _check_options(attributes: dict[str, str]) -> None:
    """What a StorageClass says of mounts makes sense. Raises Refused."""
    words = list(volume.option_words(attributes.items()))
    volume.check_words(words, dynamic=True)
    volume.kernel_words(volume.parsed("bucket:/", words))


def _existing(
    request: csi.CreateVolumeRequest, keys: VolumeKeys, attributes: dict[str, str]
) -> csi.Volume:
    """A volume that is the bucket or folder which the secret names. Raises Refused.

    Nothing is made, and nothing is deleted: its id is no place of the driver's.
    """
    if not keys.bucket:
        raise invalid(f'{_EXISTING}=true: the secret of the claim needs "bucket"')
    return csi.Volume(
        volume_id=request.name,
        capacity_bytes=_size(request.capacity_range),
        volume_context={**attributes, "bucket": keys.bucket, "prefix": keys.prefix},
    )


def _size(wanted: csi.CapacityRange) -> int:
    """The size to make a volume with. Raises Refused."""
    if 0 < wanted.limit_bytes < wanted.required_bytes:
        raise Refused(StatusCode.OUT_OF_RANGE, "the limit is less than what is required")
    return wanted.required_bytes or wanted.limit_bytes


def _fits(mark: Mark, wanted: csi.CapacityRange) -> bool:
    if mark.bytes < wanted.required_bytes:
        return False
    return not wanted.limit_bytes or mark.bytes <= wanted.limit_bytes


def _told(place: Made, mark: Mark) -> csi.Volume:
    context = {**mark.attributes, "bucket": place.bucket, "prefix": place.path}
    if mark.bytes:
        context.setdefault("bucket_size", str(mark.bytes))
    return csi.Volume(volume_id=place.volume_id, capacity_bytes=mark.bytes, volume_context=context)
