"""Fixtures all tests share, coroutine tests under trio, and a watchdog over each test.

``async def test_…`` runs under `trio.run`, with a virtual clock if marked ``mock_clock``. A test
that takes longer than its time limit (marker ``time_limit(seconds)``, default `TIME_LIMIT`) is
freed by aborting its mounts' FUSE connections, and fails.
"""

from __future__ import annotations

import functools
import inspect
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio
import trio.testing
from botocore.exceptions import BotoCoreError, ClientError

from tests.harness import examples
from tests.harness import mounts as mounts_module
from tests.harness.abilities import Abilities
from tests.harness.endpoint import Endpoint, configured, embedded
from tests.harness.mounts import SHARED, Mount, Mounts
from tests.harness.proxy import Proxy, proxy
from tests.harness.watchdog import Watchdog, scratch_base
from tests.harness.witness import Witness

#: Seconds one test may take: more than any takes that does not hang, also where ten want each core.
TIME_LIMIT = 240.0

# Tests fork to act as other users. What gRPC does before a fork, where tests of CSI ran in this
# process, may wait for ever. Its library reads this when it is first used.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

#: The folders of tests in the order in which they run: what fails within seconds comes first, and
#: last the folder with many short files, so that workers which take a file each end together.
ORDER = (
    "unit",
    "tree",
    "store",
    "locks",
    "harness",
    "budget",
    "kernel",
    "model",
    "simulation",
    "scale",
    "histories",
    "crash",
    "faults",
    "system",
    "csi",
    "mount",
)

MARKERS = (
    "mock_clock: run the coroutine test under trio's MockClock, which skips over idle time",
    "time_limit(seconds): how long this test may take",
    "real_endpoint: moto cannot show this; needs BUCKETFS_TEST_URL",
    "needs_root(why): for root only, because of what the test does",
    "needs(ability…): what the endpoint must be able to do, see tests/harness/abilities.py",
    "slow(why): left out by `make test-quick`",
)


class Overdue(BaseException):
    """The watchdog struck. Not an Exception: no test and no Hypothesis may swallow it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--at-endpoint",
        action="store_true",
        help="only tests that ask the S3 endpoint; others say the same whatever it is",
    )


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    examples.load_profile()
    # tests make what only its owner may write; where users have groups of their own it is 002
    os.umask(0o022)
    missing = mounts_module.fuse_missing()
    config.stash[FUSE_MISSING] = missing


def pytest_sessionstart(session: pytest.Session) -> None:
    """Look at the server once, before any worker starts: what ends a worker is not shown."""
    given = configured()
    if given is None or hasattr(session.config, "workerinput"):
        return
    try:
        given.client().list_buckets()
    except (BotoCoreError, ClientError) as exc:
        pytest.exit(f"{given.url} (BUCKETFS_TEST_URL) is of no use: {exc}", returncode=2)


FUSE_MISSING = pytest.StashKey[str]()
WATCHDOG = pytest.StashKey[Watchdog]()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What decides which tests run, said aloud."""
    missing = config.stash[FUSE_MISSING]
    fuse = f"ALL MOUNT TESTS ARE SKIPPED: {missing}" if missing else "usable"
    return [f"/dev/fuse: {fuse}", f"endpoint: {os.environ.get('BUCKETFS_TEST_URL') or 'moto'}"]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    missing = config.stash[FUSE_MISSING]
    if missing:
        terminalreporter.write_sep("!", f"mount tests were skipped: {missing}", red=True)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run coroutine tests under trio; others are left to pytest."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    virtual = pyfuncitem.get_closest_marker("mock_clock") is not None
    clock = trio.testing.MockClock(autojump_threshold=0) if virtual else None
    trio.run(functools.partial(pyfuncitem.obj, **arguments), clock=clock)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Arm the watchdog around a test with its fixtures."""
    config = item.config
    watchdog = config.stash.get(WATCHDOG, None)
    if watchdog is None:
        watchdog = config.stash[WATCHDOG] = Watchdog()
        config.add_cleanup(watchdog.close)
        signal.signal(signal.SIGALRM, _overdue)
        # a shell may have started this with SIGINT ignored, and programs would inherit that
        signal.signal(signal.SIGINT, signal.default_int_handler)
    marker = item.get_closest_marker("time_limit")
    is_random = item.get_closest_marker("hypothesis") is not None
    limit = marker.args[0] if marker else TIME_LIMIT
    watchdog.arm(limit * (examples.LONGER if is_random else 1))
    try:
        return (yield)
    finally:
        watchdog.disarm()


def _overdue(number: int, frame: FrameType | None) -> None:
    raise Overdue("the test hangs; its mounts were aborted")


def _turn(item: pytest.Item) -> int:
    """When a test's folder has its turn; those that `ORDER` does not know come last."""
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    return ORDER.index(folder) if folder in ORDER else len(ORDER)


def _mounts_endpoint(item: pytest.Item) -> bool:
    """Whether a test mounts a bucket of the endpoint."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return params.get("folder") == "mount" or "need_fuse" in getattr(item, "fixturenames", ())


def _asks_endpoint(item: pytest.Item) -> bool:
    """Whether a test needs the fixture `endpoint`, for `subject` and `folder` in this very case."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    varied = params.get("subject") == "endpoint" or params.get("folder") == "mount"
    return varied or "endpoint" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--at-endpoint"):
        config.hook.pytest_deselected(items=[item for item in items if not _asks_endpoint(item)])
        items[:] = filter(_asks_endpoint, items)
    items.sort(key=_turn)
    has_endpoint = bool(os.environ.get("BUCKETFS_TEST_URL"))
    for item in items:
        if item.get_closest_marker("real_endpoint") and not has_endpoint:
            item.add_marker(pytest.mark.skip(reason="needs a real endpoint (BUCKETFS_TEST_URL)"))
        for_root = item.get_closest_marker("needs_root")
        if for_root and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason=f"needs root: {for_root.args[0]}"))


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """The S3 endpoint of this run."""
    given = configured()
    if given is not None:
        yield given
        return
    with embedded(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def abilities(endpoint: Endpoint) -> Abilities:
    """What the endpoint of this run can do."""
    return Abilities(endpoint)


@pytest.fixture(autouse=True)
def able(request: pytest.FixtureRequest) -> None:
    """Skips what the endpoint cannot do, with the reason."""
    needed = [name for marker in request.node.iter_markers("needs") for name in marker.args]
    if _mounts_endpoint(request.node):
        needed.insert(0, "directories")  # each lookup asks
    if needed and _asks_endpoint(request.node):
        found: Abilities = request.getfixturevalue("abilities")
        for name in needed:
            if reason := found.lacking(name):
                pytest.skip(reason)


@pytest.fixture
def outlives() -> Iterator[ExitStack]:
    """What a mount needs until it is gone; set up before and torn down after `mount`."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def module_outlives() -> Iterator[ExitStack]:
    """The same for `module_mounts`."""
    with ExitStack() as stack:
        yield stack


def fresh_bucket(endpoint: Endpoint, outlives: ExitStack) -> Witness:
    witness = Witness.create(endpoint)
    outlives.callback(witness.destroy)
    return witness


@pytest.fixture
def bucket(endpoint: Endpoint, outlives: ExitStack) -> Witness:
    """A fresh bucket for one test."""
    return fresh_bucket(endpoint, outlives)


@pytest.fixture(scope="module")
def module_bucket(endpoint: Endpoint, module_outlives: ExitStack) -> Witness:
    """A fresh bucket for the tests of one module."""
    return fresh_bucket(endpoint, module_outlives)


@pytest.fixture
def counted(endpoint: Endpoint, outlives: ExitStack) -> Proxy:
    """A proxy before the endpoint: mount with ``url=counted.url``."""
    return outlives.enter_context(proxy(endpoint.url))


@pytest.fixture(scope="session")
def need_fuse(request: pytest.FixtureRequest) -> None:
    """Skips what cannot be mounted here."""
    missing = request.config.stash[FUSE_MISSING]
    if missing:
        pytest.skip(missing)


@pytest.fixture
def mount(need_fuse: None, outlives: ExitStack) -> Iterator[Mounts]:
    """Factory of mounts for one test; each is unmounted and its log checked afterwards."""
    yield from _mounts()


@pytest.fixture(scope="module")
def module_mounts(need_fuse: None, module_outlives: ExitStack) -> Iterator[Mounts]:
    """Factory of mounts for one module."""
    yield from _mounts()


def _mounts() -> Iterator[Mounts]:
    base = scratch_base()
    factory = Mounts(base)
    try:
        yield factory
    finally:
        wrong = factory.close()
        shutil.rmtree(base, ignore_errors=True)
    assert not wrong, "\n\n".join(wrong)


@pytest.fixture(scope="module")
def shared(module_mounts: Mounts, module_bucket: Witness) -> Mount:
    """One mount, with other users let in, for the tests of a module."""
    return module_mounts(module_bucket, *SHARED, "use_xattr")


@pytest.fixture
def mounted(shared: Mount) -> Iterator[Mount]:
    """`shared`, started again if an earlier test broke it; new alarming log lines fail the test."""
    if not shared.alive():
        shared.down()
        shared.start()
    shared.alarms()
    shared.expected.clear()
    yield shared
    alarms = shared.alarms()
    assert not alarms, "in the log of bucketfs:\n" + "\n".join(alarms)


class Folder:
    """A directory to test in: of the mount, or a local one that shows what POSIX wants.

    Attributes:
        path: The directory, empty at first.
        mount: The mount it is in; None for the local one.
        prefix: What its keys begin with.
    """

    def __init__(self, path: Path, mount: Mount | None, prefix: str = "") -> None:
        self.path = path
        self.mount = mount
        self.prefix = prefix

    @property
    def local(self) -> bool:
        return self.mount is None

    def __truediv__(self, name: str) -> Path:
        return self.path / name


@pytest.fixture(params=["local", "mount"])
def folder(request: pytest.FixtureRequest) -> Iterator[Folder]:
    """A fresh `Folder`, both kinds in turn: the test itself is tested on the local one."""
    name = f"t{os.urandom(4).hex()}"
    if request.param == "local":
        base = scratch_base()
        path = base / name
        path.mkdir()
        path.chmod(0o755)
        yield Folder(path, None)
        shutil.rmtree(base)
        return
    mounted: Mount = request.getfixturevalue("mounted")
    path = mounted.path / name
    path.mkdir(mode=0o755)
    yield Folder(path, mounted, f"{name}/")


@pytest.fixture
def here(mounted: Mount) -> Folder:
    """A fresh `Folder` in the mount only, for what is bucketfs's own."""
    name = f"t{os.urandom(4).hex()}"
    path = mounted.path / name
    path.mkdir(mode=0o755)
    return Folder(path, mounted, f"{name}/")


@pytest.fixture(scope="module")
def attentive(module_mounts: Mounts, module_bucket: Witness) -> Mount:
    """A mount of the module's bucket that trusts nothing it knows: others' changes show at once."""
    return module_mounts(module_bucket, *SHARED, "stat_cache_expire=0", "open_ttl=0", "compat_dir")


@pytest.fixture
def foreign(attentive: Mount) -> Iterator[Folder]:
    """A prefix nobody has written to yet, in a mount that sees others' changes at once."""
    if not attentive.alive():
        attentive.down()
        attentive.start()
    attentive.alarms()
    name = f"t{os.urandom(4).hex()}"
    yield Folder(attentive.path / name, attentive, f"{name}/")
    alarms = attentive.alarms()
    assert not alarms, "in the log of bucketfs:\n" + "\n".join(alarms)
