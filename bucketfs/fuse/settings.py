"""What a mount is asked for, in the words of libfuse and of the kernel. Pure."""

from __future__ import annotations

from bucketfs.cache.places import cache_root, name_of
from bucketfs.fuse import descriptor
from bucketfs.fuse.keeper import Record
from bucketfs.options import Options


def settings(options: Options) -> set[str]:
    """Options of the mount in libfuse's words."""
    words = {
        "default_permissions",
        "subtype=bucketfs",
        # as in fstab: mount -a takes what is not there under this name for unmounted
        "fsname=" + (options.spec or options.source).replace("\\", "\\\\").replace(",", "\\,"),
        *options.fuse_options,
    }
    if options.read_only:
        words.add("ro")
    if options.allow_other:
        words.add("allow_other")
    return words


def refuses_writes(options: Options) -> bool:
    """Whether writes are refused here: whoever mounted may not have told the kernel to."""
    return options.read_only and descriptor.handed_over(options.mountpoint) is not None


def record(options: Options) -> Record:
    """What a mount of an earlier daemon has to be like, for this one to go on with it."""
    name = name_of(options.url, options.bucket)
    return Record(
        source=f"{name}|{options.prefix}|{options.at or ''}|{cache_root(options.use_cache)}",
        mountpoint=options.mountpoint,
        settings=tuple(sorted(settings(options))),
    )


def can_go_on(options: Options) -> bool:
    """Whether another daemon could go on with the mount.

    The numbers of inodes of several trees are made as these are entered; what libfuse or somebody
    else mounts has not been agreed on here; and with `follow` the kernel trusts for an hour what
    nobody could tell it of between two daemons. Locks in the bucket need a process of their own,
    which ends with the daemon.
    """
    if options.all_buckets or options.versions or options.plain_fuse or options.follow:
        return False
    if options.locks == "bucket":
        return False
    if "auto_unmount" in options.fuse_options:
        return False
    return descriptor.handed_over(options.mountpoint) is None
