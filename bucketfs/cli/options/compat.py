"""Words that may stand in an option list without being options of bucketfs.

Three kinds: what mount(8), systemd and fstab add, options of s3fs that are accepted without effect
so that an s3fs line mounts with only its type changed, and options that are refused because
ignoring them would do something other than what was asked for. Options of rclone stand in
`bucketfs.cli.options.rclone`.

Sources: mount(8), libfuse 3.14 (which refuses what it does not know), s3fs 1.90 to 1.97.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from types import MappingProxyType

#: Mount words libfuse understands and the kernel acts on.
FUSE_WORDS = frozenset(
    {
        *("nosuid", "nodev", "noexec", "noatime", "sync", "dirsync"),
        *("default_permissions", "auto_unmount", "allow_root"),
    }
)

#: SELinux contexts are passed on with their values.
FUSE_VALUES = frozenset({"context", "fscontext", "defcontext", "rootcontext"})

#: Words that take back what libfuse sets by default. Only root's are heard.
PRIVILEGED_WORDS = frozenset({"suid", "dev"})

#: What mount.fuse3 puts at the end of root's options, asked or not (libfuse 3.14, mount.fuse.c).
MOUNT_FUSE3_ADDS = ("dev", "suid")

#: Words that take each other back.
CONTRARY: Mapping[str, str] = MappingProxyType(
    {
        "suid": "nosuid",
        "dev": "nodev",
        "exec": "noexec",
        "atime": "noatime",
        "async": "sync",
    }
)

#: Mount words that mean nothing to a FUSE file system; libfuse would refuse most of them.
_DROPPED_WORDS = frozenset(
    {
        *("defaults", "auto", "noauto", "nofail", "fail", "_netdev", "_rnetdev"),
        *("user", "users", "nouser", "owner", "noowner", "group", "nogroup"),
        *("relatime", "norelatime", "strictatime", "nostrictatime", "lazytime", "nolazytime"),
        *("diratime", "nodiratime", "iversion", "noiversion", "mand", "nomand"),
        *("silent", "loud", "nosymfollow", "symfollow", "bootwait", "nobootwait"),
    }
)

#: The same with a value, as shell patterns over the name.
_DROPPED_PATTERNS = ("x-*", "X-*", "comment", "helper", "uhelper", "user", "subtype", "max_read")

_SELF = "bucketfs decides this by itself"

#: Options of s3fs (and of libfuse 2) without effect here, and why.
IGNORED: Mapping[str, str] = MappingProxyType(
    {
        "sigv4": "Signature Version 4 is the default",
        "listobjectsv2": "ListObjectsV2 is the default",
        "list_object_max_keys": "a page of a listing is always 1000 keys",
        "noxmlns": "obsolete in s3fs too",
        "imdsv1only": "the AWS library chooses the version of the metadata service",
        "nodnscache": "names are resolved for each new connection",
        "nosscache": "TLS sessions are kept by the connection pool",
        "noua": "requests carry the User-Agent of the AWS library",
        "mime": "content types follow /etc/mime.types and Python's own table",
        "multipart_copy_size": _SELF,
        "multipart_threshold": _SELF,
        "putheader_mp_threshold": _SELF,
        "singlepart_copy_limit": _SELF,
        "nomixupload": _SELF,
        "nocopyapi": "where the endpoint cannot copy, bucketfs downloads and uploads",
        "norenameapi": "where the endpoint cannot copy, bucketfs downloads and uploads",
        "streamupload": _SELF,
        "max_dirty_data": "unwritten data is bounded by the cache",
        "del_cache": "the cache is bounded by cache_size and validated by ETag",
        "fake_diskfree": "it only serves s3fs's own tests",
        "max_stat_cache_size": _SELF,
        "enable_negative_cache": "missing names are always remembered, for open_ttl",
        "disable_negative_cache": "missing names are always remembered, for open_ttl",
        "enable_noobj_cache": "missing names are always remembered, for open_ttl",
        "disable_noobj_cache": "missing names are always remembered, for open_ttl",
        "notsup_compat_dir": "compat_dir is off by default",
        "complement_stat": "objects without metadata always get a sensible mode",
        "update_parent_dir_stat": "directory times follow changes made through the mount",
        "hard_remove": "a file removed while open stays usable until it is closed",
        "use_wtf8": "names that are not UTF-8 are refused with EILSEQ",
        "curldbg": "use -d",
        "insecure_logging": "secrets are never logged",
        "set_check_cache_sigusr1": "the cache checks what it reads",
        "fd_page_size": "obsolete in s3fs too",
        "fsname": "the source shown is always the bucket",
        "big_writes": "writes are always big",
        "kernel_cache": "pages stay cached while the object is unchanged",
        "auto_cache": "pages stay cached while the object is unchanged",
        "ac_attr_timeout": "use stat_cache_expire",
        "attr_timeout": "use stat_cache_expire",
        "entry_timeout": "use stat_cache_expire",
        "negative_timeout": "use open_ttl",
        "direct_io": "pages stay cached while the object is unchanged",
        "intr": _SELF,
        "nointr": _SELF,
        "use_ino": _SELF,
        "large_read": _SELF,
        "max_write": _SELF,
        "max_readahead": _SELF,
        "max_background": _SELF,
        "congestion_threshold": _SELF,
        "async_read": _SELF,
        "sync_read": _SELF,
        "max_idle_threads": _SELF,
        "clone_fd": _SELF,
        "noforget": _SELF,
    }
)

NO_KEYS = "everyone can read a command line; put the keys into passwd_file="
_NO_PLUGIN = "credential plug-ins are not supported; use profile= with credential_process"
NO_IAM = "IAM tokens are not supported; use HMAC keys (cos_hmac_keys) in passwd_file="
NO_PROXY = "set HTTPS_PROXY or HTTP_PROXY in the environment"

#: Options refused by name, and what to do instead.
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "accessKeyId": NO_KEYS,
        "secretAccessKey": NO_KEYS,
        "credlib": _NO_PLUGIN,
        "credlib_opts": _NO_PLUGIN,
        "ibm_iam_auth": NO_IAM,
        "ibm_iam_endpoint": NO_IAM,
        "ahbe_conf": "extra headers per file are not supported",
        "load_sse_c": "keys for reading only are not supported; use use_sse=custom:FILE",
        "ssl_client_cert": "client certificates are not supported",
        "cipher_suites": "the choice of ciphers is OpenSSL's; set it in its configuration",
        "proxy": NO_PROXY,
        "proxy_cred_file": NO_PROXY,
        "ipresolve": "not supported; name an address of the wanted family in url=",
        "createbucket": "make the bucket first, for instance with: aws s3 mb s3://BUCKET",
        "remount": "run mount -o remount,ro or mount -o remount,rw, as root",
        "setuid": "not supported; mount as that user",
        "drop_privileges": "not supported",
        "bind": "mount the bucket first, then bind it with mount --bind",
    }
)


def is_dropped(name: str) -> bool:
    """Whether `name` is a word of mount(8) that is swallowed without a trace."""
    if name in _DROPPED_WORDS:
        return True
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _DROPPED_PATTERNS)
