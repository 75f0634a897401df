"""One seed, one run: two mounts of one bucket, their programs, and what happens to them."""

from __future__ import annotations

import logging
import random
import shutil
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio
import trio.testing

from bucketfs.cache.cache import DiskCache
from bucketfs.errors import FsError, StoreError
from bucketfs.fuse.calls import Calls
from bucketfs.fuse.encode import Encoder, View
from bucketfs.fuse.kernel_cache import KernelCache
from bucketfs.fuse.operations import Operations
from bucketfs.fuse.session import open_cache, plant
from bucketfs.options import Options
from bucketfs.store.base import Capabilities
from bucketfs.store.layers.limit import LimitStore
from bucketfs.store.layers.retry import RetryPolicy, RetryStore
from bucketfs.tasks import Background
from bucketfs.tree.tree import Tree
from tests.simulation import allowed, chance, disk
from tests.simulation.bucket import SharedBucket
from tests.simulation.kernel import Kernel, Killed
from tests.simulation.link import SILENCE, Link, Weather
from tests.simulation.oracle import Oracle
from tests.simulation.programs import Step, Steps, program
from tests.simulation.spin import Spins, StepBound, bounded_cpu
from tests.simulation.versions import Versions
from tests.tree.check import check

#: Virtual seconds that one step of a program may take, and a whole run.
STEP_BOUND, RUN_BOUND = 2_000.0, 100_000.0
#: Seconds after which everything that waits has had its try, and nothing known is fresh.
CALM = 300.0
OP_TIMEOUT = 60.0


@dataclass
class Plan:
    """What a seed decides before the run begins."""

    writeback: bool
    retries: int
    weather: Weather
    programs: dict[str, list[list[Step]]]
    #: By mount: when what happens to it.
    events: dict[str, list[tuple[float, str]]]


def planned(seed: int) -> Plan:
    """The plan of a seed."""
    dice = random.Random(seed)
    cancelled = dice.choice([0.0, 0.0, 0.1])
    faults = dice.choice([0.0, 0.02, 0.1])
    return Plan(
        writeback=dice.random() < 0.5,
        retries=dice.choice([0, 1, 3, 5]),
        weather=Weather(dice.choice([0.0, 0.01, 0.05, 0.3]), faults, dice.choice([0.0, 0.05])),
        programs={
            mount: [
                program(dice, dice.randint(3, 10), cancelled) for _ in range(dice.randint(1, 3))
            ]
            for mount in ("A", "B")
        },
        events={
            mount: sorted(
                (dice.random() * 8, dice.choice(["kill", "kill", "power cut", "stop"]))
                for _ in range(dice.choice([0, 0, 1, 1, 2]))
            )
            for mount in ("A", "B")
        },
    )


@dataclass
class Outcome:
    """What came of a run."""

    violations: list[str]
    trace: list[str]


class World:
    """Everything of one run."""

    def __init__(self, seed: int, plan: Plan, directory: Path) -> None:
        self.plan, self.directory = plan, directory
        self.dice = random.Random(seed + (1 << 40))
        self.trace: list[str] = []
        self.scope = trio.CancelScope()
        self.oracle = Oracle(self.note, self.scope.cancel)
        self.bucket = SharedBucket(self.oracle, Capabilities(min_part=4_000, max_object=1 << 30))
        self.longest = 0.0
        self.happened: list[tuple[str, str]] = []

    def note(self, line: str) -> None:
        """A line of the trace, which ends with the first violation."""
        if self.oracle.violations:
            return
        try:
            self.trace.append(f"{trio.current_time():10.4f} {line}")
        except RuntimeError:
            self.trace.append(f"{'':10} {line}")

    def spins(self, what: str, where: str) -> None:
        """The run takes too many steps."""
        self.note(where)
        self.oracle.complain(what)


class Mount:
    """One mount of the bucket through all its lives."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self._world = world
        self._dice = random.Random(world.dice.random())
        self._root = world.directory / f"{name}.0"
        self._lives = 0
        self.life: Life | None = None
        self.calm = False
        self._changed = trio.Event()

    async def begin(self, nursery: trio.Nursery) -> None:
        """Mount; again, if the bucket refuses."""
        while True:
            self._lives += 1
            self._world.note(f"{self.name} mounts")
            life = Life(self._world, self, self._root, self._dice)
            try:
                await nursery.start(life.live)
            except (StoreError, FsError) as error:
                self._world.note(f"{self.name} is not mounted: {error}")
                await trio.sleep(5)
                continue
            self.life = life
            self._changed.set()
            self._changed = trio.Event()
            return

    async def steps(self) -> Steps:
        """Of the life it has, or the next one."""
        while self.life is None:
            await self._changed.wait()
        return self.life.steps

    async def kill(self, *, power: bool) -> None:
        """It ends at this moment; what is left of it is its next life's."""
        assert self.life is not None
        life, self.life = self.life, None
        self._world.happened.append((self.name, "power cut" if power else "kill"))
        self._world.note(f"{self.name} {'loses its power' if power else 'is killed'}")
        left = self._root.with_suffix(f".{self._lives}")
        if power:
            chance.power_cuts[self.name] += 1
            disk.cut_off(self._root, left, self._dice)
        else:
            disk.killed(self._root, left)
        synced = disk.journal_synced(life.cache.directory) if power else None
        self._world.oracle.crashed(self.name, journal_synced=synced)
        await life.kill()
        self._root = left

    async def stop(self) -> None:
        """SIGTERM: what is being asked is not answered, what is unsaved is saved."""
        assert self.life is not None
        life, self.life = self.life, None
        self._world.note(f"{self.name} stops")
        await life.stop()

    @property
    def root(self) -> Path:
        """Where its caches are."""
        return self._root


class Life:
    """A mount from mounting to unmounting, or to its sudden end."""

    def __init__(self, world: World, mount: Mount, root: Path, dice: random.Random) -> None:
        self._world, self._mount, self._root, self._dice = world, mount, root, dice
        plan = world.plan
        self._options = Options(
            bucket="bucket",
            mountpoint="/mnt",
            use_cache=str(root),
            op_timeout=OP_TIMEOUT,
            retries=plan.retries,
            writeback=plan.writeback,
            ensure_diskfree=0,
        )
        self._link = Link(
            world.bucket, mount.name, plan.weather, dice, note=world.note, look=self.check
        )
        self._link.calm = mount.calm
        self._versions = Versions(world.bucket.versions, writeback=plan.writeback)
        self._scope = trio.CancelScope()
        self._calls: dict[trio.CancelScope, None] = {}
        self._wanted = trio.Event()
        self._over = trio.Event()
        self._idle = trio.Event()
        self.cache: DiskCache
        self.tree: Tree | None = None
        self.steps: Steps
        self.kernel: Kernel

    async def live(self, task_status: trio.TaskStatus[None]) -> None:
        """From mounting to the end."""
        chance.mount_name.set(self._mount.name)
        chance.is_dead.set(self.is_dead)
        policy = RetryPolicy(
            attempts=self._options.retries + 1,
            seconds=OP_TIMEOUT - SILENCE,
            patience=OP_TIMEOUT,
        )
        store = RetryStore(LimitStore(self._link, bulk=16, small=32), policy)
        self.cache = open_cache(self._options)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    remembered = KernelCache(Calls())
                    nursery.start_soon(remembered.run)
                    self.tree = tree = plant(
                        store, self._options, self.cache, Background(nursery), remembered
                    )
                    operations = Operations(
                        tree,
                        Encoder(tree, View()),
                        timeout=OP_TIMEOUT,
                        size=None,
                        xattrs=True,
                        kernel=remembered,
                    )
                    await tree.attributes.ensure(tree.state.root)
                    await tree.replay.run()
                    self.kernel = Kernel(operations, nursery, self._dice)
                    self.steps = Steps(
                        self.kernel, self._world.oracle, self._versions, self._mount.name,
                        self._dice,
                    )  # fmt: skip
                    task_status.started()
                    await self._wanted.wait()
                    left = await tree.drain.run(trio.Event(), lambda _remaining: None)
                    for lost in left.files:
                        self._world.note(f"{self._mount.name} left {lost.path}: {lost.error}")
                    nursery.cancel_scope.cancel()
            await self._calls_ended()
            self.check(ended=True)
        except* (StoreError, FsError) as group:
            raise _single(group) from None
        finally:
            self.cache.close()
            self._over.set()

    def is_dead(self) -> bool:
        """Whether it was killed."""
        return self._link.dead

    def calm(self) -> None:
        """Nothing goes wrong any more."""
        self._link.calm = True

    def check(self, *, ended: bool = False, at_rest: bool = False) -> None:
        """What has to hold of the tree does, unless the mount was killed (`tests.tree.check`)."""
        if self.tree is None or (self.is_dead() and not ended):
            return
        try:
            check(self.tree, ended=ended, at_rest=at_rest)
        except AssertionError as error:
            self._world.oracle.complain(f"{self._mount.name}: {error}")

    async def run_in(self, steps: Steps, step: Step) -> None:
        """A step that ends when the mount does."""
        chance.is_dead.set(self.is_dead)
        with trio.CancelScope() as scope:
            self._calls[scope] = None
            try:
                await steps.run(step)
            except Killed:
                pass
            finally:
                del self._calls[scope]
                if not self._calls and self.kernel.dead:
                    self._idle.set()
        self.check()

    def _end_calls(self) -> None:
        self.kernel.dead = True
        for scope in self._calls:
            scope.cancel()

    async def _calls_ended(self) -> None:
        if self._calls:
            await self._idle.wait()

    async def kill(self) -> None:
        """End at once; nothing it does from now on counts."""
        self._end_calls()
        await self._link.kill()
        self._scope.cancel()
        await self._over.wait()

    async def stop(self) -> None:
        """End in order."""
        self._end_calls()
        await self._calls_ended()
        self._wanted.set()
        await self._over.wait()


async def _main(world: World) -> None:
    with world.scope:
        async with trio.open_nursery() as nursery:
            mounts = [Mount(world, name) for name in ("A", "B")]
            for mount in mounts:
                await mount.begin(nursery)
            async with trio.open_nursery() as programs:
                for mount in mounts:
                    for steps in world.plan.programs[mount.name]:
                        programs.start_soon(_run_program, world, mount, steps)
                    programs.start_soon(_befall, world, mount, nursery)
            await _check_end(world, mounts, nursery)


async def _run_program(world: World, mount: Mount, steps: Sequence[Step]) -> None:
    chance.mount_name.set(mount.name)
    for step in steps:
        running = await mount.steps()
        began = trio.current_time()
        assert mount.life is not None
        with trio.move_on_after(STEP_BOUND) as scope:
            await mount.life.run_in(running, step)
        if scope.cancelled_caught:
            world.oracle.complain(f"{mount.name} {step} does not end")
        world.longest = max(world.longest, trio.current_time() - began)


async def _befall(world: World, mount: Mount, nursery: trio.Nursery) -> None:
    for moment, what in world.plan.events[mount.name]:
        await trio.sleep_until(moment)
        if what == "stop":
            await mount.stop()
        else:
            await mount.kill(power=what == "power cut")
        await mount.begin(nursery)


async def _check_end(world: World, mounts: Sequence[Mount], nursery: trio.Nursery) -> None:
    for mount in mounts:
        mount.calm = True
        assert mount.life is not None
        mount.life.calm()
    await trio.sleep(CALM)
    for mount in mounts:
        assert mount.life is not None
        mount.life.check(at_rest=True)
        await _check_view(world, mount)
    for again in (True, False):  # what a mount could not do is the next one's
        for mount in mounts:
            await mount.stop()
            if again:
                await mount.begin(nursery)
        await trio.sleep(CALM)
    objects = {key: world.bucket.peek(key) for key in world.bucket.objects}
    world.oracle.check_end(objects, _unsaved(mounts))
    if world.bucket.uploads and not allowed.leaves_uploads(what for _, what in world.happened):
        world.oracle.complain(f"unfinished uploads: {sorted(world.bucket.uploads)}")
    for mount in mounts:
        _check_journal(world, mount)


async def _check_view(world: World, mount: Mount) -> None:
    """A mount shows what the bucket has."""
    chance.mount_name.set(mount.name)
    steps = await mount.steps()
    found: dict[str, bytes] = {}
    await steps.collect("", found)
    wanted = {
        key: world.bucket.peek(key)
        for key in world.bucket.objects
        if not key.endswith("/")
        and not any(other.startswith(key + "/") for other in world.bucket.objects)
    }
    if found != wanted:
        wrong = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        world.oracle.complain(f"{mount.name} shows others than the bucket has: {wrong}")


def _unsaved(mounts: Sequence[Mount]) -> list[bytes]:
    return [
        path.read_bytes() for mount in mounts for path in sorted(mount.root.glob("*/unsaved/*"))
    ]


def _check_journal(world: World, mount: Mount) -> None:
    cache = open_cache(Options(bucket="bucket", mountpoint="/mnt", use_cache=str(mount.root)))
    try:
        journal = cache.journal
        rows = (
            [row for row in journal.pending() if not row.error],
            journal.removals(), journal.renames(), journal.uploads(),
        )  # fmt: skip
        if any(rows):
            world.oracle.complain(f"{mount.name} leaves in its journal: {rows}")
    finally:
        cache.close()


class _Log(logging.Handler):
    """The log goes into the trace; a traceback in it is a bug."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self._world.note(f"  log {record.levelname}: {chance.mount_name.get()}: {text}")
        if "their names are back" in text:
            self._world.oracle.names_back(chance.mount_name.get())
        if "may stay behind" in text:
            self._world.happened.append((chance.mount_name.get(), "an abort failed"))
        if record.exc_info and not chance.is_dead.get()():
            formatter = logging.Formatter()
            self._world.note(formatter.formatException(record.exc_info))
            self._world.oracle.complain(f"traceback in the log: {text}: {record.exc_info[1]!r}")


def run(seed: int, base: Path, *, verbose: bool = False) -> Outcome:
    """Run a seed in a directory of its own below `base`."""
    chance.seed(seed)
    disk.forget()
    directory = base / str(seed)
    directory.mkdir()
    world = World(seed, planned(seed), directory)
    world.oracle.verbose = verbose
    log, handler = logging.getLogger("bucketfs"), _Log(world)
    log.addHandler(handler)
    clock = trio.testing.MockClock(autojump_threshold=0)
    try:
        with bounded_cpu():
            trio.run(_bounded, world, clock=clock, instruments=[StepBound(world.spins)])
    except* (Exception, Spins) as group:  # noqa: BLE001 - whatever it is, it is a finding
        error = _single(group)
        world.note("".join(traceback.format_exception(error)))
        world.oracle.violations.append(f"the run ended with {error!r}")
    finally:
        log.removeHandler(handler)
        shutil.rmtree(directory)
    return Outcome(world.oracle.violations, world.trace)


async def _bounded(world: World) -> None:
    with trio.move_on_after(RUN_BOUND) as scope:
        await _main(world)
    if scope.cancelled_caught:
        world.oracle.complain("the run does not end")


def _single(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
