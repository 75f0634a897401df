# bucketfs: make setup | demo | test | test-quick | lint | check | docs | install | deb | bench | bench-quick
# test-quick: unit, tree and store, without what is slow there: about a minute, and no /dev/fuse.
# Long tests: make nothing-lost | test-crash | test-races | test-faults | test-simulation | test-scale |
# test-random | test-large | test-ceph | test-stores | fuzz

PYTHON  ?= $(shell sh .ci/find-python)
PREFIX  ?= /usr/local
SBINDIR ?= /sbin
UNITDIR ?= /lib/systemd/system
USERUNITDIR ?= /usr/lib/systemd/user
DESTDIR ?=
SHARE    = $(DESTDIR)$(PREFIX)/share

SECONDS ?= 600

# Servers for test-stores that need no compiling; garage and s3s do.
STORES ?= moto ceph seaweedfs swift s3proxy rclone

VENV  := .venv
RUN   := $(VENV)/bin/python
READY := $(VENV)/.ready
SUDO  := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# Whatever the environment says, compiled modules are kept: the tests start the program a thousand
# times, and compiling it each time is a third of a start.
export PYTHONDONTWRITEBYTECODE :=

# Files of tests run side by side: each worker has a server, mounts and directories of its own. One
# worker more than there are cores, as tests also wait; eight at most.
QUICK   := tests/unit tests/tree tests/store
WORKERS := -n $$(($$(nproc) < 8 ? $$(nproc) + 1 : 8)) --dist loadfile --no-loadscope-reorder

.PHONY: setup packages demo test test-quick lint check nothing-lost test-crash test-races test-faults test-simulation test-scale test-random test-large test-ceph test-stores fuzz bench bench-quick docs install uninstall deb clean

setup: packages $(READY)

# Looked at each time, which is quick: a package that was removed since is installed again.
packages:
	@sh .ci/system-packages fuse

# Once per change of the requirements: the stamp lies inside the environment.
$(READY): pyproject.toml .ci/system-packages | packages
	@echo "== Python environment in $(VENV); compiling pyfuse3 takes about a minute"
	[ -x $(RUN) ] || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[demo,test]'
	@touch $@

# Whether anything can be mounted is said before minutes are spent on the environment.
demo:
	@sh .ci/check-fuse
	@$(MAKE) --no-print-directory setup
	$(RUN) -m bucketfs demo $(DIR)

# With ARGS one pytest call, its tests one after another.
test:
	@sh .ci/check-fuse || echo "== Without that, the tests that mount are skipped."
	@$(MAKE) --no-print-directory setup
ifdef ARGS
	$(RUN) -m pytest $(ARGS)
else
	$(RUN) -m pytest $(WORKERS)
endif

# What is marked slow says why.
test-quick: setup
	$(RUN) -m pytest $(WORKERS) -m 'not slow' $(QUICK) $(ARGS)

lint: setup
	$(RUN) -m ruff check bucketfs tests benchmarks contrib
	$(RUN) -m ruff format --check bucketfs tests benchmarks contrib
	$(RUN) -m mypy --strict bucketfs

check: lint test

# Writes 50 GiB three times and reads 60 GiB; 20 minutes, and 12 GB of disk for the cache.
test-large: setup
	$(RUN) -m pytest tests/large -s $(ARGS)

# What servers answer, for SECONDS a property: an hour at the default.
fuzz: setup
	$(RUN) -m pip install --quiet --editable '.[fuzz]'
	$(RUN) -m tests.fuzz $(SECONDS)

# The daemon killed with -9 at random moments, 50 rounds in each mode: five minutes.
test-crash: setup
	BUCKETFS_TEST_ROUNDS=$${BUCKETFS_TEST_ROUNDS:-50} $(RUN) -m pytest tests/crash -s $(ARGS)

# Objects that change under open readers, 1,000 times; two mounts that want one name, 200 times each.
test-races: setup
	BUCKETFS_TEST_ROUNDS=$${BUCKETFS_TEST_ROUNDS:-1000} $(RUN) -m pytest \
	    tests/mount/test_torn.py -s $(ARGS)
	BUCKETFS_TEST_ROUNDS=$${BUCKETFS_TEST_ROUNDS:-200} $(RUN) -m pytest \
	    tests/mount/test_races.py -s $(ARGS)

# Each request of each step of tests/faults with each kind of fault, in memory and through the kernel,
# 1,000 open files and 64 writers of 64 MiB: an hour.
test-faults: setup
	BUCKETFS_TEST_FAULTS=1 $(RUN) -m pytest tests/faults -s $(ARGS)

# Random programs on two mounts of a bucket in memory, with faults, kills and power cuts, in virtual
# time: some minutes. SEED=1234 replays one run and prints what happened; SEEDS and FIRST choose others.
test-simulation: setup
	$(RUN) -m tests.simulation $(if $(SEED),--seed $(SEED),--first $(or $(FIRST),0) \
	    --seeds $(or $(SEEDS),10000) --jobs $$(nproc)) $(ARGS)

# 1,000 mounts of a bucket in memory, in virtual time: what they ask is compared with the budget of
# requests, and stands in docs/scale.md afterwards. A quarter of an hour; MOUNTS=100 is a minute.
test-scale: setup
	$(RUN) -m tests.scale --mounts $(or $(MOUNTS),1000) $(if $(MOUNTS),,--docs docs) $(ARGS)

# All properties with other examples than in `make test`, and RANDOM times as many: some minutes.
test-random: setup
	BUCKETFS_TEST_RANDOM=$(or $(RANDOM),10) $(RUN) -m pytest -m hypothesis \
	    tests/unit tests/tree tests/store tests/model $(ARGS)

# The promise, shown: everything that should lose data and does not, and at the end the counts.
nothing-lost: setup
	sh .ci/nothing-lost

# Store and mount tests against a real server, a Ceph RADOS Gateway that lives as long as they do.
test-ceph: setup
	sh .ci/system-packages ceph
	$(SUDO) $(RUN) -m tests.harness.rgw $(RUN) -m pytest $(WORKERS) tests/store tests/mount $(ARGS)

# What asks the endpoint in these tests, against one server after another, and a table of the counts:
# ten minutes each. STORES="swift rclone" chooses.
test-stores: setup
	sh .ci/store-servers $(STORES)
	$(SUDO) $(RUN) -m tests.harness.stores --table $(STORES) -- \
	    tests/store tests/mount --at-endpoint -q $(ARGS)

# Against s3fs and rclone, on a Ceph RGW: an hour. ARGS="--only 'read*'" and the like choose.
bench: setup
	sh .ci/system-packages ceph
	sh .ci/system-packages bench
	$(SUDO) $(RUN) -m benchmarks --loopback --network --json results.json $(ARGS)

# Less of everything, once, over loopback.
bench-quick: setup
	sh .ci/system-packages ceph
	sh .ci/system-packages bench
	$(SUDO) $(RUN) -m benchmarks --quick $(ARGS)

docs: setup
	$(RUN) -m bucketfs.cli.options.manual docs
	$(RUN) -m bucketfs.cli.commands.completion docs/completion
	$(RUN) -m bucketfs.cli.socket.exposition docs/metrics.md
	$(RUN) -m tests.pictures docs
	$(RUN) -m tests.scale.document docs

# A private environment under $(PREFIX)/lib/bucketfs; mount(8) finds its helpers in $(SBINDIR).
install:
	install -d '$(DESTDIR)$(PREFIX)/lib' '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(SBINDIR)' \
	    '$(DESTDIR)$(UNITDIR)' '$(DESTDIR)$(USERUNITDIR)'
	$(PYTHON) -m venv --clear '$(DESTDIR)$(PREFIX)/lib/bucketfs'
	'$(DESTDIR)$(PREFIX)/lib/bucketfs/bin/python' -m pip install --quiet .
	sh .ci/relocate '$(DESTDIR)$(PREFIX)/lib/bucketfs' '$(PREFIX)/lib/bucketfs'
	ln -sf '$(PREFIX)/lib/bucketfs/bin/bucketfs' '$(DESTDIR)$(PREFIX)/bin/bucketfs'
	ln -sf '$(PREFIX)/lib/bucketfs/bin/bucketfs' '$(DESTDIR)$(SBINDIR)/mount.bucketfs'
	ln -sf '$(PREFIX)/lib/bucketfs/bin/bucketfs' '$(DESTDIR)$(SBINDIR)/mount.fuse.bucketfs'
	sed 's|@BINDIR@|$(PREFIX)/bin|' systemd/bucketfs@.service \
	    > '$(DESTDIR)$(UNITDIR)/bucketfs@.service'
	sed 's|@BINDIR@|$(PREFIX)/bin|' systemd/user/bucketfs@.service \
	    > '$(DESTDIR)$(USERUNITDIR)/bucketfs@.service'
	install -D -m 644 docs/bucketfs.1 '$(SHARE)/man/man1/bucketfs.1'
	install -D -m 644 docs/mount.bucketfs.8 '$(SHARE)/man/man8/mount.bucketfs.8'
	ln -sf mount.bucketfs.8 '$(SHARE)/man/man8/mount.fuse.bucketfs.8'
	install -D -m 644 docs/completion/bucketfs '$(SHARE)/bash-completion/completions/bucketfs'
	install -D -m 644 docs/completion/_bucketfs '$(SHARE)/zsh/site-functions/_bucketfs'
	install -D -m 644 docs/completion/bucketfs.fish '$(SHARE)/fish/vendor_completions.d/bucketfs.fish'

# A package for the distribution this runs on, in dist/.
deb:
	@sh .ci/system-packages deb
	sh contrib/debian/build

uninstall:
	rm -rf '$(DESTDIR)$(PREFIX)/lib/bucketfs'
	rm -f '$(DESTDIR)$(PREFIX)/bin/bucketfs' '$(DESTDIR)$(SBINDIR)/mount.bucketfs' \
	    '$(DESTDIR)$(SBINDIR)/mount.fuse.bucketfs' '$(DESTDIR)$(UNITDIR)/bucketfs@.service' \
	    '$(DESTDIR)$(USERUNITDIR)/bucketfs@.service' '$(SHARE)/man/man1/bucketfs.1' \
	    '$(SHARE)/man/man8/mount.bucketfs.8' '$(SHARE)/man/man8/mount.fuse.bucketfs.8' \
	    '$(SHARE)/bash-completion/completions/bucketfs' '$(SHARE)/zsh/site-functions/_bucketfs' \
	    '$(SHARE)/fish/vendor_completions.d/bucketfs.fish'

clean:
	rm -rf $(VENV) .stores build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
