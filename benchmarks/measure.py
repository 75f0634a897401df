"""One sample: a fresh mount, one workload on it, and what it took."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.data import DATA, Scale
from benchmarks.mounting import Mounted, MountError, cpu_seconds, machine_seconds
from benchmarks.server import Network
from benchmarks.systems import Place, System
from benchmarks.workloads import Job, Workload
from tests.harness.endpoint import Endpoint
from tests.harness.witness import Witness

#: Seconds for one workload, and for what precedes it.
PATIENCE = 240.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of a workload on one system took.

    Attributes:
        seconds: Until the last call returned and the bucket held the result.
        cpu: User and system seconds of the mount's process meanwhile.
        memory: The most bytes it had resident, from its start.
        others: CPU seconds of processes that have nothing to do with it: noise.
        counted: Whether it went through a network that counts; the next three are empty else.
        error: Why there is no result, "" when there is one.
    """

    seconds: float = 0
    cpu: float = 0
    memory: int = 0
    others: float = 0
    counted: bool = False
    requests: dict[str, int] = field(default_factory=dict)
    up: int = 0
    down: int = 0
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Laboratory:
    """Takes samples against one endpoint.

    Args:
        endpoint: Asked directly, for preparing and for witnessing.
        servers: The endpoint's processes, whose work is not noise.
        scratch: An empty directory, in memory if results shall not depend on a disk.
    """

    def __init__(self, endpoint: Endpoint, servers: list[int], scale: Scale, scratch: Path) -> None:
        self._endpoint, self._servers = endpoint, servers
        self.scale, self._scratch = scale, scratch
        self._shared: dict[str, Witness] = {}

    def close(self) -> None:
        """Delete the buckets that workloads shared."""
        for bucket in self._shared.values():
            bucket.destroy()
        self._shared.clear()

    def sample(self, workload: Workload, system: System, network: Network | None) -> Sample:
        """Run `workload` on a fresh mount of `system`. A failure is a sample, too.

        The mount goes through `network`, which counts, or to the endpoint directly.
        """
        with ExitStack() as stack:
            bucket = stack.enter_context(self._bucket(workload))
            place = self._place(bucket, network)
            job = Job(place.mountpoint, self.scale, bucket, self._scratch / "archive.tar")
            try:
                if workload.again:
                    with Mounted(system, place, self._scratch / "log") as mounted:
                        self._take(workload, mounted, job, network)
                with Mounted(system, place, self._scratch / "log") as mounted:
                    stack.callback(mounted.forget)
                    return self._take(workload, mounted, job, network)
            except MountError as exc:
                return Sample(error=str(exc))

    @contextmanager
    def _bucket(self, workload: Workload) -> Iterator[Witness]:
        fill = DATA[workload.data]
        if workload.changes:
            bucket = Witness.create(self._endpoint)
            try:
                fill(bucket, self.scale)
                yield bucket
            finally:
                bucket.destroy()
            return
        if workload.data not in self._shared:
            self._shared[workload.data] = Witness.create(self._endpoint)
            fill(self._shared[workload.data], self.scale)
        yield self._shared[workload.data]

    def _place(self, bucket: Witness, network: Network | None) -> Place:
        passwd = self._scratch / "passwd"
        if not passwd.exists():
            passwd.touch(0o600)
            passwd.write_text(f"{self._endpoint.access_key}:{self._endpoint.secret_key}\n")
        return Place(
            endpoint=network.endpoint if network else self._endpoint,
            bucket=bucket.name,
            passwd=passwd,
            cache=self._scratch / "cache",
            mountpoint=self._scratch / "mnt",
        )

    def _take(
        self, workload: Workload, mounted: Mounted, job: Job, network: Network | None
    ) -> Sample:
        fork = multiprocessing.get_context("fork")
        ours, theirs = fork.Pipe()
        child = fork.Process(target=_child, args=(workload, job, theirs))
        child.start()
        theirs.close()
        try:
            return self._observe(mounted, ours, child.pid or 0, network)
        except (TimeoutError, EOFError) as exc:
            # An answer of the mount may be all the child waits for: without a mount it comes.
            mounted.kill()
            return Sample(error=str(exc) or "the workload's process died")
        finally:
            child.join(10)
            child.kill()

    def _observe(
        self, mounted: Mounted, child: Connection, child_pid: int, network: Network | None
    ) -> Sample:
        """Let the child begin once it is ready and compare what was used before and after."""
        known = [mounted.pid, child_pid, os.getpid(), *self._servers]
        if network:
            known.append(network.pid)
        error = _receive(child)
        if error:
            return Sample(error=str(error))
        before = network.traffic() if network else None
        cpu, machine, all_known = cpu_seconds([mounted.pid]), machine_seconds(), cpu_seconds(known)
        child.send("go")
        result = _receive(child)
        cpu = cpu_seconds([mounted.pid]) - cpu
        others = machine_seconds() - machine - (cpu_seconds(known) - all_known)
        if isinstance(result, str):
            return Sample(error=result)
        child.send("end")
        assert isinstance(result, float)
        found = Sample(result, cpu, mounted.peak_memory(), max(0.0, others))
        if network is None or before is None:
            return found
        seen = network.traffic().since(before)
        counts = {"requests": seen.requests, "up": seen.up, "down": seen.down}
        return Sample(**(found.as_dict() | counts | {"counted": True}))


def _receive(child: Connection) -> object:
    if not child.poll(PATIENCE):
        raise TimeoutError(f"no result in {PATIENCE:g} s")
    return child.recv()


def _child(workload: Workload, job: Job, parent: Connection) -> None:
    """The workload's process: says "" when ready, then the seconds it took, or what failed."""
    try:
        # A mount may stand before it serves; and the witness needs its connection.
        os.stat(job.root)
        job.bucket.client.head_bucket(Bucket=job.bucket.name)
        if workload.before:
            workload.before(job)
        parent.send("")
        parent.recv()
        start = time.perf_counter()
        workload.run(job)
        parent.send(time.perf_counter() - start)
        # Its CPU time is read before it is gone.
        parent.recv()
    except Exception as exc:  # noqa: BLE001  (the parent reports it)
        parent.send(f"{type(exc).__name__}: {exc}")
