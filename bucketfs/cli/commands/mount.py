"""``bucketfs BUCKET MOUNTPOINT``: the half before the fork.

The command line, the mount point and the files with the keys are checked here, at once and without
an event loop; `bucketfs.cli.process.serve` does the rest in the process that stays.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from bucketfs import log as logs
from bucketfs.cli import show
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options import arguments, bucket, compat, complete, manual, trust
from bucketfs.cli.process import checks, daemon, fdstore, unmounting
from bucketfs.credentials import (
    Credentials,
    CredentialsError,
    StaticKeys,
    resolve,
)
from bucketfs.errors import MountRefused
from bucketfs.fuse import descriptor, handed, settings
from bucketfs.fuse import keeper as keepers
from bucketfs.fuse.keeper import Keeper, Taken
from bucketfs.options import Options

log = logging.getLogger("bucketfs.mount")

#: What a first request may need beyond connect and read time-outs: TLS, name lookup.
_START_MARGIN = 30.0


def run(argv: Sequence[str]) -> int:
    """Mount as `argv` says (without the program's name); returns the exit code. Raises Failure."""
    try:
        found = arguments.tokenise(argv)
        if "help" in found.flags:
            print(manual.rclone_usage() if found.positions == ["rclone"] else manual.usage())
            return ExitCode.OK
        if "version" in found.flags:
            print(manual.version())
            return ExitCode.OK
        _check_order(found.positions)
        found.options = arguments.without_additions(found.options)
        options = complete.build(found, os.environ)
    except arguments.ParseError as error:
        raise Failure(ExitCode.USAGE, str(error)) from None
    return mount(options)


def mount(options: Options) -> int:
    """Check, mount and serve; in the background unless ``-f``. Raises Failure."""
    options = bucket.with_endpoint(with_absolute_paths(_with_rights(options)), os.environ)
    open_before = daemon.inherited_descriptors()
    wait = daemon.patience(options) + _START_MARGIN
    report = daemon.supervised(os.environ)
    if report is None and _wants_supervisor(options):
        return daemon.supervise(foreground=options.foreground, wait=wait, inherited=open_before)
    if report is not None and not options.foreground:

        def supervised(told: daemon.Report) -> int:
            return _body(options, supervised=True)(told)

        daemon.run_supervised(supervised, report)
    options = _with_descriptor(options)
    ours = descriptor.handed_over(options.mountpoint)
    body = _body(options, supervised=report is not None)
    if options.foreground:
        return body(daemon.ForegroundReport())
    inherited = [fd for fd in open_before if fd != ours]
    return daemon.run_in_background(body, wait=wait, inherited=inherited)


def _wants_supervisor(options: Options) -> bool:
    """Whether a process is to keep the mount. Raises Failure where none can."""
    if not options.restart:
        return False
    if options.fuse_fd is not None or not settings.can_go_on(options):
        raise Failure(
            ExitCode.USAGE,
            "restart: no other daemon could go on with this mount: not with all buckets, versions,"
            " follow, locks=bucket, plain_fuse, auto_unmount, fuse_fd or /dev/fd/N",
        )
    return not (options.foreground and "NOTIFY_SOCKET" in os.environ)


def _body(options: Options, *, supervised: bool) -> daemon.Body:
    """What mounts and serves, after all checks that need no event loop. Raises Failure."""
    try:
        logs.setup(options)
    except OSError as error:
        raise Failure(ExitCode.FAILED, f"logfile={options.logfile}: {error.strerror}") from None
    checks.fuse(options)
    keeper, taken = _kept(options, supervised=supervised)
    if taken is None:
        checks.mountpoint(options)  # of one that nobody serves now it would get no answer
    checks.cache_directory(options)
    credentials = find_credentials(options)
    bucket.tell_keys(credentials)
    options = trust.with_ca_bundle(options, os.environ)
    daemon.harden()
    for note in options.notes:
        log.warning("%s", note)
    for remark in options.remarks:
        log.info("%s", remark)

    def body(report: daemon.Report) -> int:
        # The event loop and the AWS library belong to the process that serves, not to its parent;
        # and a wrong option is reported without waiting for them.
        from bucketfs.cli.process import serve  # noqa: PLC0415

        return serve.serve(options, credentials, find_credentials, report, keeper, taken)

    return body


def _check_order(positions: Sequence[str]) -> None:
    """Notice a mount point that stands first. Raises Failure."""
    if len(positions) != 2 or not os.path.isdir(positions[0]) or os.path.exists(positions[1]):
        return
    first, second = map(show.name, positions)
    raise Failure(
        ExitCode.MOUNTPOINT,
        f"{second}: the mount point does not exist; if {first} is the mount point, it stands last:"
        f" bucketfs {second} {first}; if not, run: mkdir -p {second}",
    )


def _kept(options: Options, *, supervised: bool) -> tuple[Keeper | None, Taken | None]:
    """Who keeps the mount from one daemon to the next, and what an earlier one has left.

    Raises Failure where the mount that this one was started for is none any more.
    """
    store = fdstore.offered(os.environ, restarts=supervised)
    if store is None or not (options.foreground or supervised):
        return None, None
    if not settings.can_go_on(options):
        keepers.discard(store)
        return None, None
    if not store.takes_any():
        log.info("the service manager keeps no descriptors: the mount ends with this process")
        return None, None
    if supervised and keepers.has_ended(store):
        line = f"{options.mountpoint}: was unmounted while nobody served it"
        log.warning("%s", line)
        raise Failure(ExitCode.FAILED, line)
    taken, reason = keepers.take(store, settings.record(options))
    if reason:
        log.warning("%s is mounted anew, what is open there fails: %s", options.mountpoint, reason)
        with suppress(Failure):  # it is looked at once more before the mount
            unmounting.unmount(options.mountpoint, lazy=True)
    return store, taken


def _with_rights(options: Options) -> Options:
    """Without the words that only root's mounts may have: fusermount3 would complain of them."""
    if os.geteuid() == 0:
        return options
    kept = [word for word in options.fuse_options if word not in compat.PRIVILEGED_WORDS]
    return replace(options, fuse_options=tuple(kept))


def _with_descriptor(options: Options) -> Options:
    """With the mount that `fuse_fd` brings in place of a mount point. Raises Failure."""
    if options.fuse_fd is None:
        return options
    try:
        number = handed.receive(options.fuse_fd)
    except MountRefused as error:
        raise Failure(ExitCode.MOUNTPOINT, error.why) from None
    return replace(options, mountpoint=f"/dev/fd/{number}")


def with_absolute_paths(options: Options) -> Options:
    """Paths made absolute, since a daemon lives in ``/``."""

    def absolute(path: str | None) -> str | None:
        return os.path.abspath(os.path.expanduser(path)) if path else None

    return replace(
        options,
        mountpoint=os.path.abspath(options.mountpoint),
        use_cache=absolute(options.use_cache or options.tmpdir),
        tmpdir=absolute(options.tmpdir),
        logfile=absolute(options.logfile),
        passwd_file=absolute(options.passwd_file),
    )


def find_credentials(options: Options) -> Credentials:
    """The keys to sign with, kept out of the log from now on. Raises Failure."""
    try:
        found = resolve(options, os.environ)
    except CredentialsError as error:
        raise Failure(ExitCode.CREDENTIALS, str(error)) from None
    if isinstance(found, StaticKeys):
        if found.is_ibm and not options.url:
            raise Failure(
                ExitCode.CREDENTIALS,
                f"{found.source}: the keys are IBM Cloud's; add the address of the bucket:"
                " -o url=https://s3.REGION.cloud-object-storage.appdomain.cloud",
            )
        logs.protect(found.secret_key, found.token)
    return found
