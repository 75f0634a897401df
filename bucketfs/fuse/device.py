"""The mount's descriptor of /dev/fuse: who opens it, what is said first, and how it is given up.

libfuse can be handed a mount that stands already, as the mount point /dev/fd/N. So bucketfs lets
fusermount3 mount, as libfuse does, and keeps the descriptor for the kernel's first request, INIT.
libfuse gets to see that on a socket and answers there; its answer goes to the kernel with what
`agreement` adds. Then the descriptor takes the socket's number, and from the second request on
libfuse talks to the kernel alone: no request costs more for it.

The same serves a mount point /dev/fd/N of the command line: a descriptor of /dev/fuse that somebody
with more rights has mounted and left open for us, as container engines do. Who mounted it has
chosen its options, and unmounts it.

Of a mount that an earlier daemon has left, the `Record` says what was agreed on: libfuse is asked
as the kernel would (`keeper`).

A mount that shares its locks keeps the socket: a process hands the messages on (`relayed`).

Where any of that cannot be, libfuse mounts and agrees with the kernel as it does by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import shutil
import socket
import subprocess
from collections.abc import Set as AbstractSet

import pyfuse3
import trio

from bucketfs.errors import MountRefused
from bucketfs.fuse import agreement, descriptor
from bucketfs.fuse.keeper import Record, Taken
from bucketfs.fuse.relayed import Relay

log = logging.getLogger(__name__)

#: Seconds for libfuse's answer to the kernel's first request, which comes at once.
_PATIENCE = 10.0
#: Seconds for fusermount3, which only waits if the mount point does.
_PATIENCE_WITH_HELPER = 60.0
#: The least that a read of /dev/fuse must have room for is 8 KiB (FUSE_MIN_READ_BUFFER).
_ROOM = 1 << 16
#: Flag of umount2(2): the mount goes from the tree now, whoever still uses it.
_MNT_DETACH = 2


class _NotAgreed(Exception):
    """libfuse has to mount by itself; the text says why."""


class Session:
    """A mount that pyfuse3 is to serve.

    Attributes:
        number: Of libfuse's descriptor if libfuse has not mounted by itself, else -1.
        agreed: The kernel's first request and the answer with what bucketfs wants, background
            limits among it; None where libfuse has answered alone.
        is_new: No earlier daemon has served it.
        relay: The process between the kernel and libfuse, if there is one.
    """

    def __init__(
        self,
        mountpoint: str,
        *,
        agreed: tuple[bytes, bytes] | None = None,
        number: int = -1,
        is_new: bool = True,
        relay: Relay | None = None,
    ) -> None:
        self.number = number
        self.relay = relay
        self._kernel = number if relay is None else relay.kernel
        self.is_new = is_new
        self.agreed = agreed
        self._mountpoint = mountpoint

    async def device(self) -> int:
        """st_dev of the files in the mount, 0 if unknown; returns when the kernel gets answers.

        Not by a look at them from here: whoever is killed while it waits for its own answer waits
        for ever.
        """
        if descriptor.handed_over(self._mountpoint) is not None:
            return descriptor.device_of(self._kernel)
        if self.agreed is None:
            # libfuse answers the first request in its own time
            command, null = ["stat", "--", self._mountpoint], subprocess.DEVNULL
            await trio.run_process(command, stdout=null, stderr=null, check=False)
        return descriptor.device_at(self._mountpoint)

    @property
    def stands(self) -> bool:
        """Whether it is known that the kernel has the mount still."""
        return self.number >= 0 and not descriptor.is_over(self._kernel)

    def leave(self) -> None:
        """Give up the descriptor, which somebody else has as well: the mount stands."""
        pyfuse3.close(unmount=False)

    def close(self) -> None:
        """Give up the descriptor, and the mount point if it is ours and taken still."""
        if self.number < 0:
            pyfuse3.close(unmount=True)
            return
        stands = not descriptor.is_over(self._kernel)
        # before the mount point is touched: from now on nobody waits for an answer of ours
        pyfuse3.close(unmount=False)
        if self.relay is not None:
            self.relay.end()
        if stands and descriptor.handed_over(self._mountpoint) is None:
            _unmount(self._mountpoint)


async def begin(
    operations: pyfuse3.Operations,
    mountpoint: str,
    settings: AbstractSet[str],
    *,
    plain: bool,
    taken: Taken | None = None,
    again: bool = False,
    locks: bool = False,
) -> Session:
    """Mount, or take over what is mounted.

    Args:
        operations: The handlers.
        mountpoint: A directory, or /dev/fd/N.
        settings: Options of the mount in the words of libfuse, escaped for it.
        plain: libfuse is to do it alone.
        taken: What an earlier daemon has left there. If libfuse does not agree on what that has
            agreed on, it is unmounted, and mounted anew.
        again: The kernel is to ask again what that one has not answered.
        locks: The kernel is to ask for locks, which come through `Session.relay`.

    Raises:
        MountRefused: The mount point, or the descriptor, cannot be used; or it cannot be made to
            ask for locks.
    """
    if taken is not None:
        try:
            return await _introduce(
                operations, taken.kernel, mountpoint, settings, taken.record, again=again
            )
        except _NotAgreed as error:
            log.warning("%s is mounted anew, what is open there fails: %s", mountpoint, error)
    handed = descriptor.handed_over(mountpoint)
    if handed is not None:
        if reason := descriptor.unusable(handed):
            raise MountRefused(errno.EINVAL, reason)
        os.set_inheritable(handed, False)
        os.set_blocking(handed, True)
    if not plain and "auto_unmount" not in settings:
        try:
            kernel = handed if handed is not None else _mount(mountpoint, settings)
            return await _introduce(operations, kernel, mountpoint, settings, locks=locks)
        except _NotAgreed as error:
            if locks:
                raise MountRefused(errno.EIO, f"{mountpoint}: locks=bucket: {error}") from error
            if handed is not None:
                raise MountRefused(errno.EIO, f"{mountpoint}: {error}") from error
            log.info("libfuse mounts by itself: %s", error)
    _hand_to_libfuse(operations, mountpoint, settings)
    return Session(mountpoint, number=-1 if handed is None else handed)


# ---- mounting ------------------------------------------------------------------------------------


def _mount(mountpoint: str, settings: AbstractSet[str]) -> int:
    """The descriptor of a new mount. Raises _NotAgreed with what stands in the way."""
    helper = shutil.which("fusermount3")
    if helper is None:
        raise _NotAgreed("fusermount3 is missing")
    # libfuse lets in root beside the owner by asking for all users and refusing the others itself
    words = {"allow_other" if word == "allow_root" else word for word in settings}
    ours, its = socket.socketpair()
    with ours, its:
        environment = {**os.environ, "_FUSE_COMMFD": str(its.fileno())}
        try:
            done = subprocess.run(
                [helper, "-o", ",".join(sorted(words)), "--", mountpoint],
                env=environment,
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PATIENCE_WITH_HELPER,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _NotAgreed(str(error)) from error
        ours.setblocking(False)
        try:
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        except BlockingIOError:
            descriptors = []
    if not descriptors:
        raise _NotAgreed(" ".join(done.stderr.decode(errors="replace").split()) or "no descriptor")
    (kernel,) = descriptors
    os.set_inheritable(kernel, False)
    if descriptor.unusable(kernel):
        os.close(kernel)
        raise _NotAgreed(f"{helper} has mounted nothing")
    return kernel


def _unmount(mountpoint: str) -> None:
    """Take a mount out of the tree that nobody serves any more, as libfuse does."""
    if os.geteuid() == 0 and not _umount2(os.fsencode(mountpoint), _MNT_DETACH):
        return
    if helper := shutil.which("fusermount3"):
        command = [helper, "-u", "-q", "-z", "--", mountpoint]
        try:
            subprocess.run(
                command, stdin=subprocess.DEVNULL, timeout=_PATIENCE_WITH_HELPER, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning(
                "%s: not unmounted, run: bucketfs umount -l %s: %s", mountpoint, mountpoint, error
            )


def _umount2(path: bytes, flags: int) -> int:
    """umount2(2), which umount(8) would precede with questions to a mount that answers none."""
    return int(ctypes.CDLL(None, use_errno=True).umount2(path, flags))


def _hand_to_libfuse(
    operations: pyfuse3.Operations, mountpoint: str, settings: AbstractSet[str]
) -> None:
    try:
        pyfuse3.init(operations, mountpoint, set(settings))
    except RuntimeError as error:
        # libfuse has printed the reason to standard error
        raise MountRefused(errno.EIO, f"cannot mount at {mountpoint}: {error}") from error


# ---- the first request ---------------------------------------------------------------------------


async def _introduce(
    operations: pyfuse3.Operations,
    kernel: int,
    mountpoint: str,
    settings: AbstractSet[str],
    before: Record | None = None,
    *,
    again: bool = False,
    locks: bool = False,
) -> Session:
    """Have libfuse serve a mount after the first request.

    `kernel`, the mount's descriptor, gets the number that libfuse knows and is closed under its
    own. With a record of what was agreed on `before`, the kernel is not asked: libfuse gets to see
    that request once more, and has to give the same answer. `again` and `locks` as `begin` takes
    them.

    Raises:
        _NotAgreed: The first request was not what begins a mount, or libfuse did not answer it, or
            not as before. The descriptor is closed, and of ours the mount as well.
        MountRefused: libfuse does not take the settings.
    """
    begun = False
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    number = its.detach()
    relay = None
    try:
        with contextlib.ExitStack() as until_agreed:
            until_agreed.enter_context(ours)
            request = before.repeated if before is not None else _first_request(kernel)
            _hand_to_libfuse(operations, f"/dev/fd/{number}", settings)
            begun = True
            answer = agreement.amended(request, await _answer(ours, request))
            if locks:
                answer = _with_locks(request, answer)
                until_agreed.pop_all()  # the socket goes on
            if before is None:
                _tell(kernel, answer)
            elif answer != before.answer:
                raise _NotAgreed("libfuse does not agree on what the last one has agreed on")
            if again:
                _tell(kernel, agreement.resend())
        if locks:
            relay = Relay(kernel, ours)
        else:
            os.dup2(kernel, number, inheritable=False)
            os.close(kernel)
    except BaseException:
        os.close(kernel)
        if begun:
            pyfuse3.close(unmount=False)
        else:
            os.close(number)
        if descriptor.handed_over(mountpoint) is None:
            _unmount(mountpoint)
        raise
    agreed = (request, answer) if before is None else (before.request, before.answer)
    return Session(mountpoint, agreed=agreed, number=number, is_new=before is None, relay=relay)


def _with_locks(request: bytes, answer: bytes) -> bytes:
    try:
        return agreement.with_locks(request, answer)
    except ValueError as error:
        raise _NotAgreed(str(error)) from error


def _first_request(kernel: int) -> bytes:
    """INIT, which is there when mount(2) returns. Raises _NotAgreed if something else is."""
    if not descriptor.is_asked(kernel):
        raise _NotAgreed("the kernel asks nothing: somebody has begun to serve it already")
    try:
        request = os.read(kernel, _ROOM)
    except OSError as error:
        raise _NotAgreed(f"the kernel ended the mount: {error.strerror}") from error
    if not agreement.is_init(request):
        _refuse(kernel, request)
        raise _NotAgreed("somebody has begun to serve it already")
    return request


def _refuse(kernel: int, request: bytes) -> None:
    """Nobody is to wait for an answer to a request that was taken from who serves the mount."""
    if answer := agreement.refusal(request):
        os.write(kernel, answer)


def _tell(kernel: int, answer: bytes) -> None:
    try:
        os.write(kernel, answer)
    except OSError as error:
        raise _NotAgreed(f"the kernel does not take the answer: {error.strerror}") from error


async def _answer(ours: socket.socket, request: bytes) -> bytes:
    """What libfuse answers to INIT. Raises _NotAgreed if it does not."""
    ours.setblocking(False)
    ours.send(request)
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await pyfuse3.main(max_tasks=1)
            nursery.cancel_scope.cancel()  # libfuse gave up; it has printed why

        nursery.start_soon(serve)
        with trio.move_on_after(_PATIENCE):
            await trio.lowlevel.wait_readable(ours)
        # libfuse waits for the next request now, which it is to read from the kernel
        nursery.cancel_scope.cancel()
    try:
        return ours.recv(_ROOM)
    except BlockingIOError:
        raise _NotAgreed("libfuse did not answer the kernel") from None
