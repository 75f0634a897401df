"""The commands of the program: each module has ``run(argv)``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

#: Commands and the modules whose ``run(argv)`` carries them out.
COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "mount": "bucketfs.cli.commands.mount",
        "umount": "bucketfs.cli.commands.umount",
        "status": "bucketfs.cli.commands.status",
        "top": "bucketfs.cli.commands.top",
        "flush": "bucketfs.cli.commands.flush",
        "refresh": "bucketfs.cli.commands.refresh",
        "info": "bucketfs.cli.commands.info",
        "warm": "bucketfs.cli.commands.warm",
        "evict": "bucketfs.cli.commands.evict",
        "set": "bucketfs.cli.commands.set",
        "log-level": "bucketfs.cli.commands.log_level",
        "restart": "bucketfs.cli.commands.restart",
        "versions": "bucketfs.cli.commands.versions",
        "restore": "bucketfs.cli.commands.restore",
        "presign": "bucketfs.cli.commands.presign",
        "size": "bucketfs.cli.commands.size",
        "check": "bucketfs.cli.commands.check",
        "gc": "bucketfs.cli.commands.gc",
        "dataset": "bucketfs.cli.commands.dataset",
        "recover": "bucketfs.cli.commands.recover",
        "help": "bucketfs.cli.commands.help",
        "completion": "bucketfs.cli.commands.completion",
        "demo": "bucketfs.cli.demo.demo",
    }
)
