"""One sample: a fresh mount, one workload on it, and what it took."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.bare import Bare
from benchmarks.child import Child, WorkError
from benchmarks.data import DATA, Scale
from benchmarks.floor import FLOORS
from benchmarks.mounting import Mounted, MountError, cpu_seconds, machine_seconds
from benchmarks.server import Network, Serving
from benchmarks.systems import Place, System
from benchmarks.workloads import Job, Workload
from tests.harness.witness import Witness


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of a workload on one system took.

    Attributes:
        seconds: Until the last call returned and the bucket held the result.
        cpu: User and system seconds of the mount's process meanwhile; of the floor: its own.
        memory: The most bytes it had resident, from its start.
        server: CPU seconds of the server's processes, as far as they are known.
        others: CPU seconds of processes that have nothing to do with it: noise.
        counted: Whether it went through a network that counts; the next three are empty else.
        error: Why there is no result, "" when there is one.
    """

    seconds: float = 0
    cpu: float = 0
    memory: int = 0
    server: float = 0
    others: float = 0
    counted: bool = False
    requests: dict[str, int] = field(default_factory=dict)
    up: int = 0
    down: int = 0
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Laboratory:
    """Takes samples against one server.

    Args:
        serving: Asked directly, for preparing and for witnessing.
        scratch: An empty directory, in memory if results shall not depend on a disk.
    """

    def __init__(self, serving: Serving, scale: Scale, scratch: Path) -> None:
        self._serving, self._endpoint = serving, serving.endpoint
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
            if system.family == "floor":
                return self._floor(workload, bucket, network)
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
            ceph=self._serving.ceph,
        )

    def _take(
        self, workload: Workload, mounted: Mounted, job: Job, network: Network | None
    ) -> Sample:
        def before() -> None:
            # A mount may stand before it serves; and the witness needs its connection.
            os.stat(job.root)
            job.bucket.client.head_bucket(Bucket=job.bucket.name)
            if workload.before:
                workload.before(job)

        with Child(before, _timed(lambda: workload.run(job))) as child:
            try:
                sample = self._observe(child, mounted.pid, network)
            except WorkError as exc:
                # An answer of the mount may be all the child waits for: without a mount it comes.
                mounted.kill()
                return Sample(error=str(exc))
            return replace(sample, memory=mounted.peak_memory())

    def _floor(self, workload: Workload, bucket: Witness, network: Network | None) -> Sample:
        """The requests of a workload without a file system; of several ways the fastest counts."""
        endpoint = network.endpoint if network else self._endpoint
        asked = replace(bucket, endpoint=endpoint, client=endpoint.client())
        taken = []
        for way in FLOORS[workload.name]:
            bare = Bare(asked, self.scale, way.connections)
            prepared = way.prepare(bare)
            with Child(bare.connect, _timed(prepared)) as child:
                try:
                    taken.append(self._observe(child, child.pid, network))
                except WorkError as exc:
                    return Sample(error=str(exc))
        return min(taken, key=lambda sample: sample.seconds)

    def _observe(self, child: Child[float], measured: int, network: Network | None) -> Sample:
        """Let the child begin once it is ready and compare what was used before and after."""
        servers = self._serving.pids
        known = [*{measured, child.pid, os.getpid(), *servers}]
        if network:
            known.append(network.pid)
        child.wait_ready()
        traffic = network.traffic() if network else None
        cpu, served = cpu_seconds([measured]), cpu_seconds(servers)
        machine, all_known = machine_seconds(), cpu_seconds(known)
        seconds = child.work()
        others = machine_seconds() - machine - (cpu_seconds(known) - all_known)
        found = Sample(
            seconds,
            cpu=cpu_seconds([measured]) - cpu,
            server=cpu_seconds(servers) - served,
            others=max(0.0, others),
        )
        if network is None or traffic is None:
            return found
        seen = network.traffic().since(traffic)
        return replace(found, counted=True, requests=seen.requests, up=seen.up, down=seen.down)


def _timed(work: Callable[[], object]) -> Callable[[], float]:
    """Seconds that `work` takes."""

    def timed() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return timed
