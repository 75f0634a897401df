"""The command line: positions, lists, values, and one line for each way to get it wrong."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.cli.commands.helper import translate
from bucketfs.cli.options import compat
from bucketfs.cli.options.arguments import (
    ParseError,
    parse,
    split_bucket,
    split_list,
    tokenise,
    without_additions,
)
from bucketfs.option_row import Address, Handover
from bucketfs.options import BY_NAME, TABLE, Encryption, Options
from bucketfs.units import (
    GIB,
    MIB,
    Commit,
    Moment,
    VersionOf,
    format_size,
    parse_count,
    parse_duration,
    parse_moment,
    parse_octal,
    parse_size,
    parse_switch,
)


def parsed(*options: str) -> Options:
    return parse(["bucket", "/mnt", *(word for text in options for word in ("-o", text))])


def refusal(*argv: str) -> str:
    with pytest.raises(ParseError) as caught:
        parse(argv)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("unix:/run/a b/s", Handover("/run/a b/s", listens=False)),
        ("unix-listen:/s", Handover("/s", listens=True)),
    ],
)
def test_a_mount_that_is_handed_over_has_no_mount_point(value: str, expected: Handover) -> None:
    for words in (["bucket"], ["-o", "bucket=bucket"]):
        options = parse([*words, "-o", f"fuse_fd={value}"])
        assert (options.bucket, options.fuse_fd) == ("bucket", expected)
        assert str(options.fuse_fd) == value
    assert "leave /mnt out" in refusal("bucket", "/mnt", "-o", f"fuse_fd={value}")


class TestPositions:
    def test_the_line_of_the_s3fs_manual(self) -> None:
        line = "bucket -o url=http://h:1 /mnt -o passwd_file=/k"
        options = parse(line.split())
        assert (options.bucket, options.mountpoint) == ("bucket", "/mnt")
        assert (options.url, options.passwd_file) == ("http://h:1", "/k")

    @given(st.permutations(["-f", "-d", "-ouid=1,gid=2", "-oro", "b", "m"]))
    def test_options_stand_anywhere(self, words: list[str]) -> None:
        first, second = (word for word in words if word in "bm")
        options = parse(words)
        assert (options.bucket, options.mountpoint) == (first, second)
        assert options.foreground
        assert options.debug
        assert (options.uid, options.gid, options.read_only) == (1, 2, True)

    def test_options_after_double_dash_are_names(self) -> None:
        assert parse(["--", "bucket", "-odd"]).mountpoint == "-odd"

    def test_bucket_as_an_option(self) -> None:
        options = parse(["/mnt", "-o", "bucket=name:/a/b"])
        assert (options.bucket, options.prefix, options.mountpoint) == ("name", "a/b/", "/mnt")

    @pytest.mark.parametrize(
        ("text", "bucket", "prefix"),
        [
            ("b", "b", ""),
            ("b:/", "b", ""),
            ("b:", "b", ""),
            ("s3://b", "b", ""),
            ("s3://b/a//b/", "b", "a/b/"),
            ("b:/a", "b", "a/"),
            ("b:/a/b/", "b", "a/b/"),
            ("b://a//b", "b", "a/b/"),
            ("b:/with space/ü", "b", "with space/ü/"),
            ("commit.master.images", "commit.master.images", ""),
        ],
    )
    def test_prefix(self, text: str, bucket: str, prefix: str) -> None:
        if text.startswith("b://"):
            assert "address into -o url=" in refusal(text, "/mnt")
        else:
            assert split_bucket(text) == (bucket, prefix)

    @pytest.mark.parametrize(
        "argv",
        [
            [":/", "/mnt"],
            ["/mnt", "-o", "all_buckets"],
            [":/", "/mnt", "-o", "all_buckets=1"],
            ["-o", "all-buckets", "/mnt"],
        ],
    )
    def test_all_buckets(self, argv: list[str]) -> None:
        options = parse(argv)
        assert (options.bucket, options.prefix, options.mountpoint) == ("", "", "/mnt")
        assert options.all_buckets
        assert options.source == ":/"

    def test_one_bucket_after_all(self) -> None:
        assert parse(["b", "/mnt", "-o", "all_buckets,all_buckets=0"]).bucket == "b"

    def test_source_reads_back(self) -> None:
        assert parse(["b:/a/b/", "/mnt"]).source == "b:/a/b"
        assert parse(["b", "/mnt"]).source == "b"

    @pytest.mark.parametrize(
        ("argv", "words"),
        [
            ([], "BUCKET and MOUNTPOINT missing"),
            (["b"], "MOUNTPOINT missing"),
            (["b", ""], "MOUNTPOINT is empty"),
            (["b", "/mnt", "more"], "one argument too many"),
            (["gs://b", "/mnt"], "write BUCKET[:/PREFIX]"),
            (["s3://", "/mnt"], "write BUCKET[:/PREFIX]"),
            (["s3://b:/c", "/mnt"], "write BUCKET[:/PREFIX]"),
            (["b/a", "/mnt"], "with a colon: b:/a"),
            (["b:a", "/mnt"], "must begin with a slash: b:/a"),
            (["b:/../a", "/mnt"], "'.' and '..'"),
            (["b:/" + "x" * 256, "/mnt"], "longer than 255"),
            ([":/a", "/mnt"], "names no bucket"),
            (["b", "/mnt", "-o", "all_buckets"], "exactly one argument"),
            (["-o", "all_buckets"], "exactly one argument"),
            ([":/", ""], "exactly one argument"),
            (["/mnt", "-o", "all_buckets,bucket=b"], "exclude each other"),
            ([":/", "/mnt", "-o", "public_bucket"], "exclude each other"),
            (["/mnt", "-o", "all_buckets=perhaps"], "all_buckets=perhaps"),
            (["b!", "/mnt"], "not a bucket name"),
            (["Big", "/mnt"], "use_path_request_style"),
            (["b", "/mnt", "-o"], "a list of options must follow"),
            (["b", "/mnt", "-x"], "unknown option"),
            (["-u", "b"], "does not manage uploads"),
            (["a", "b", "-o", "bucket=c"], "exactly one argument"),
        ],
    )
    def test_wrong(self, argv: list[str], words: str) -> None:
        assert words in refusal(*argv)

    def test_dotted_bucket_over_https(self) -> None:
        line = refusal("a.b", "/m", "-ourl=https://h,use_path_request_style=0")
        assert "no https certificate" in line
        assert parse(["a.b", "/m", "-ourl=https://h"]).bucket == "a.b"


class TestLists:
    @given(st.lists(st.text(st.characters(exclude_characters='\\",'), min_size=1), min_size=1))
    def test_plain_items_come_back(self, items: list[str]) -> None:
        assert list(split_list(",".join(items))) == items

    @given(st.lists(st.text(min_size=1), min_size=1))
    def test_escaped_items_come_back(self, items: list[str]) -> None:
        def escape(item: str) -> str:
            return "".join(f"\\{c}" if c in '\\,"' else c for c in item)

        assert list(split_list(",".join(map(escape, items)))) == items

    def test_quotes_protect_commas(self) -> None:
        assert list(split_list('context="a,b",ro')) == ["context=a,b", "ro"]
        assert 'closing "' in refusal("b", "/m", "-o", 'x="a')

    def test_later_beats_earlier(self) -> None:
        assert parsed("uid=1", "uid=2").uid == 2
        assert not parsed("ro", "rw").read_only
        assert parsed("rw,ro").read_only

    @given(st.lists(st.text(max_size=12), max_size=6))
    def test_any_command_line_gives_options_or_one_line(self, argv: list[str]) -> None:
        with contextlib.suppress(ParseError):
            assert isinstance(parse(argv), Options)


class TestValues:
    @pytest.mark.parametrize(
        ("option", "attribute", "value"),
        [
            ("multipart_size=10", "multipart_size", 10 * MIB),
            ("chunk_size=128M", "multipart_size", 128 * MIB),
            ("multipart_size=5Gi", "multipart_size", 5 * GIB),
            ("cache_size=20Gi", "cache_size", 20 * GIB),
            ("ensure_diskfree=100", "ensure_diskfree", 100 * MIB),
            ("bucket_size=30GB", "bucket_size", 30 * 10**9),
            ("bucket_size=20000000", "bucket_size", 20000000),
            ("stat_cache_expire=5m", "stat_cache_expire", 300.0),
            ("umask=0022", "umask", 0o022),
            ("umask=77", "umask", 0o77),
            ("endpoint=eu-west-1", "region", "eu-west-1"),
            ("host=http://h/", "url", "http://h"),
            ("parallel_count=30", "max_thread_count", 30),
            ("use_path_request_style", "use_path_request_style", True),
            ("use_path_request_style=0", "use_path_request_style", False),
            ("public_bucket=1", "public_bucket", True),
            ("plain_fuse", "plain_fuse", True),
            ("use_xattr=0", "use_xattr", False),
            ("use_xattr", "use_xattr", True),
            ("follow", "follow", True),
            ("locks=bucket", "locks", "bucket"),
            ("lock_lease=1m", "lock_lease", 60.0),
            ("ssl_verify_hostname=0", "ssl_verify_hostname", False),
            ("ca_bundle=/ca.pem", "ca_bundle", "/ca.pem"),
            ("storage_class=standard_ia", "storage_class", "STANDARD_IA"),
            ("iam_role=auto", "iam_role", True),
            ("iam_role", "iam_role", True),
            ("use_cache=", "use_cache", None),
            ("dbglevel=info", "dbglevel", "info"),
            ("metrics=9110", "metrics", Address("127.0.0.1", 9110)),
            ("metrics=:0", "metrics", Address("127.0.0.1", 0)),
            ("metrics=localhost:9110", "metrics", Address("127.0.0.1", 9110)),
            ("metrics=0.0.0.0:9110", "metrics", Address("0.0.0.0", 9110)),
            ("metrics=[::1]:9110", "metrics", Address("::1", 9110)),
            ("versions", "versions", True),
            ("use_sse", "use_sse", Encryption("s3")),
            ("use_sse=kmsid:abc", "use_sse", Encryption("kms", "abc")),
            ("use_sse=c:/k", "use_sse", Encryption("custom", "/k")),
        ],
    )
    def test_right(self, option: str, attribute: str, value: object) -> None:
        if "use_sse=c" in option:
            option += ",url=https://h"
        assert getattr(parsed(option), attribute) == value

    @pytest.mark.parametrize(
        ("option", "words"),
        [
            ("multipart_size=4", "multipart_size=4: must be at least 5Mi"),
            ("multipart_size=6Gi", "at most 5Gi"),
            ("multipart_size=x", "not a size"),
            ("multipart_size", "needs a value: multipart_size=SIZE"),
            ("umask=9", "octal"),
            ("fuse_fd=/s", "must be unix:/PATH"),
            ("fuse_fd=unix:s", "must be unix:/PATH"),
            ("fuse_fd=unix:/s/", "must be unix:/PATH"),
            ("metrics=x", "must be PORT or ADDR:PORT"),
            ("metrics=65536", "must be PORT or ADDR:PORT"),
            ("metrics=host:9110", "host is no address"),
            ("umask=7777", "octal"),
            ("uid=bob", "no user of that name"),
            ("retries=0", "at least 1"),
            ("free_space_ratio=101", "at most 100"),
            ("connect_timeout=soon", "not a time"),
            ("url=h", "must begin with http"),
            ("endpoint=https://h", "goes into url="),
            ("metadata=some", "one of full, lazy, list"),
            ("default_acl=all", "one of private"),
            ("dbglevel=loud", "one of crit"),
            ("use_sse=x", "custom[:FILE]"),
            ("use_sse=custom,url=http://h", "https:// url"),
            ("use_xattr=maybe", "neither 1 nor 0"),
            ("free_space_ratio=5,ensure_diskfree=5", "exclude each other"),
            ("follow,at=2026-01-31", "exclude each other"),
            ("locks=remote", "bucket"),
            ("lock_lease=1", "at least 2"),
            ("locks=bucket,ro", "locks=bucket and ro exclude each other"),
            ("locks=bucket,versions", "locks=bucket and versions exclude each other"),
            ("locks=bucket,plain_fuse", "locks=bucket and plain_fuse exclude each other"),
            ("locks=bucket,publish=unmount", "the end of a lock publishes"),
            ("locks=bucket,conflict=overwrite", "would overwrite what the next one stores"),
            ("no_check_certificate,ca_bundle=/x", "exclude each other"),
            ("versions,at=2h", "versions and at exclude each other"),
            ("at=3L4kqtJlcpXroDTDmJ", "PATH@VERSION for the moment of a version"),
            ("public_bucket=1,passwd_file=/x", "exclude each other"),
            ("passwd_fil=/x", "passwd_fil: unknown option; did you mean passwd_file?"),
            ("zzzz", "bucketfs --help"),
            ("accessKeyId=AK", "passwd_file="),
            ("remount", "mount -o remount,ro"),
        ],
    )
    def test_wrong(self, option: str, words: str) -> None:
        assert words in refusal("bucket", "/mnt", "-o", option)

    def test_keys_on_the_command_line_are_not_repeated(self) -> None:
        assert "hush" not in refusal("bucket", "/mnt", "-o", "secretAccessKey=hush")

    def test_servicepath_joins_the_url(self) -> None:
        assert parsed("url=http://h,servicepath=/a/b/").url == "http://h/a/b"


class TestOwners:
    def test_by_name_and_by_number(self) -> None:
        options = parsed("uid=root,gid=1000")
        assert (options.uid, options.gid) == (0, 1000)

    def test_nobody_has_that_name(self) -> None:
        with pytest.raises(ParseError, match="uid=nobdy: this machine has no user of that name"):
            parsed("uid=nobdy")


class TestMountWords:
    WORDS = (
        "rw,exec,auto,noauto,nofail,user,users,user=bob,nouser,_netdev,x-systemd.automount,"
        "x-systemd.idle-timeout=60,X-mount.mkdir,comment=abc,defaults,relatime,nodiratime,"
        "nonempty,async,strictatime,lazytime,subtype=s3fs,max_read=131072"
    )

    def test_swallowed(self) -> None:
        options = parsed(self.WORDS)
        assert options.fuse_options == ()
        assert options.notes == ()
        assert options.nonempty

    def test_passed_on(self) -> None:
        words = "nosuid,nodev,noexec,noatime,sync,dirsync,default_permissions"
        assert parsed(words).fuse_options == tuple(words.split(","))

    def test_taken_back(self) -> None:
        assert parsed("nosuid,nodev,noexec", "suid,exec").fuse_options == ("nodev", "suid")
        assert parsed("suid,dev", "nosuid").fuse_options == ("dev", "nosuid")

    def test_what_mount_fuse3_adds(self) -> None:
        """It puts dev,suid at the end of root's options, whether somebody asked for them or not."""
        asked, added = ("suid", None), [("dev", None), ("suid", None)]
        assert without_additions([("rw", None), *added]) == [("rw", None)]
        assert without_additions([asked, ("dev", None)]) == [asked, ("dev", None)]
        assert without_additions([asked]) == [asked]

    def test_commas_stay_escaped_for_libfuse(self) -> None:
        assert parsed(r"context=s0:c1\,c2").fuse_options == (r"context=s0:c1\,c2",)

    def test_none_of_them_reaches_libfuse(self) -> None:
        assert set(parsed(self.WORDS, "ro,nosuid").fuse_options) <= compat.FUSE_WORDS


class TestTable:
    def test_no_name_means_two_things(self) -> None:
        names = [name for row in TABLE for name in (row.name, *row.aliases)]
        others = [*compat.IGNORED, *compat.REFUSED, *compat.FUSE_WORDS, *compat.CONTRARY]
        assert len(names + others) == len({*names, *others})

    @pytest.mark.parametrize("name", sorted(compat.IGNORED))
    def test_ignored_ones_are_named(self, name: str) -> None:
        for text in (name, f"{name}=1"):
            (note,) = parsed(text).notes
            assert note.startswith(f"option {name} ")

    @pytest.mark.parametrize("name", sorted(compat.REFUSED))
    def test_refused_ones_are_named(self, name: str) -> None:
        assert refusal("bucket", "/mnt", "-o", f"{name}=1").startswith(f"{name}: ")

    def test_every_option_of_s3fs_is_known(self) -> None:
        words = set(S3FS.split())
        known = {
            *BY_NAME,
            *compat.IGNORED,
            *compat.REFUSED,
            *("bucket", "servicepath", "nonempty", "use_rrs"),
        }
        assert words - known == {word for word in words if compat.is_dropped(word)}

    @pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
    def test_help_is_a_sentence(self, row: object) -> None:
        text = row.help  # type: ignore[attr-defined]
        assert text.endswith(".")
        assert "`" not in text

    def test_no_secret_is_an_option(self) -> None:
        assert not [row.name for row in TABLE if "secret" in row.name]


#: Every -o name of s3fs 1.90 and 1.97 (its my_fuse_opt_proc and DetectParam).
S3FS = """
bucket url host servicepath region endpoint use_path_request_style sigv2 sigv4 listobjectsv2
list_object_max_keys requester_pays noxmlns passwd_file profile public_bucket use_session_token
iam_role imdsv1only ecs ibm_iam_auth ibm_iam_endpoint credlib credlib_opts no_check_certificate
ssl_verify_hostname ssl_client_cert cipher_suites nodnscache nosscache proxy proxy_cred_file
ipresolve connect_timeout readwrite_timeout retries max_thread_count multireq_max parallel_count
parallel_upload noua enable_unsigned_payload enable_content_md5 default_acl storage_class use_rrs
use_sse load_sse_c ahbe_conf mime multipart_size multipart_copy_size multipart_threshold
putheader_mp_threshold singlepart_copy_limit nomixupload nocopyapi norenameapi
streamupload max_dirty_data use_cache tmpdir del_cache check_cache_dir_exist ensure_diskfree
free_space_ratio fake_diskfree max_stat_cache_size stat_cache_expire stat_cache_interval_expire
enable_negative_cache disable_negative_cache enable_noobj_cache disable_noobj_cache uid gid umask
mp_umask allow_other nonempty use_xattr compat_dir notsup_compat_dir complement_stat
update_parent_dir_stat hard_remove use_wtf8 bucket_size logfile dbglevel curldbg no_time_stamp_msg
instance_name insecure_logging set_check_cache_sigusr1 createbucket auto noauto user nouser users
_netdev fd_page_size accessKeyId secretAccessKey
"""


class TestUnits:
    @given(st.integers(0, 2**62))
    def test_sizes_read_back(self, size: int) -> None:
        assert parse_size(format_size(size), bare=MIB) == size

    @pytest.mark.parametrize("text", ["", "M", "-1", "1X", "1 M", "1I", "0x10", "1e3", "\uff11"])
    def test_not_sizes(self, text: str) -> None:
        with pytest.raises(ValueError, match="not a size"):
            parse_size(text, bare=1)

    def test_powers(self) -> None:
        assert parse_size("1.5G", bare=1) == 3 * GIB // 2
        assert parse_size("1KiB", bare=1) == 1024
        assert parse_size("1KB", bare=1) == 1000
        assert parse_size("7B", bare=MIB) == 7

    @given(st.floats(0, 1e6, allow_nan=False))
    def test_seconds_read_back(self, seconds: float) -> None:
        text = f"{seconds:.3f}"
        assert parse_duration(text) == pytest.approx(float(text))

    def test_durations(self) -> None:
        assert parse_duration("1h30m") == 5400
        assert parse_duration("500ms") == 0.5
        for wrong in ("", "5x", "h", "1h30", "-1"):
            with pytest.raises(ValueError, match="not a time"):
                parse_duration(wrong)

    def test_moments(self) -> None:
        def moment(text: str) -> float:
            found = parse_moment(text)
            assert isinstance(found, Moment)
            return found.since_1970(now)

        now = 1_800_000_000.0
        assert moment("2026-01-31T12:00Z") == 1_769_860_800
        assert moment("2026-01-31T12:00+01:00") == 1_769_857_200
        for text in ("2h", "2h ago", "120m ago"):
            assert moment(text) == now - 7200
        assert parse_moment("/d/a@b.csv@3/L4") == VersionOf("d/a@b.csv", "3/L4")
        assert parse_moment("0123456789abcdef" * 2) == Commit("0123456789abcdef" * 2)
        for wrong in ("", "yesterday", "2h agog", "12", "ago", "2026-13-01", "@id", "f@"):
            with pytest.raises(ValueError, match="not a moment"):
                parse_moment(wrong)

    @given(st.integers(0, 0o777))
    def test_octal_reads_back(self, bits: int) -> None:
        assert parse_octal(f"{bits:o}") == parse_octal(f"0{bits:o}") == bits

    def test_counts_and_switches(self) -> None:
        assert parse_count("007") == 7
        with pytest.raises(ValueError, match="whole number"):
            parse_count("-1")
        assert [parse_switch(word) for word in ("1", "TRUE", "on", "0", "no")] == [True] * 3 + [
            False
        ] * 2


class TestHelper:
    def test_what_mount_passes(self) -> None:
        line = ["b:/p", "/mnt", "-n", "-v", "-o", "rw,nosuid", "-t", "bucketfs", "-N", "ns"]
        assert translate(line) == (["b:/p", "/mnt", "-o", "rw,nosuid"], False)

    def test_fake(self) -> None:
        assert translate(["b", "/m", "-sfn"]) == (["b", "/m"], True)


@pytest.mark.parametrize(
    ("words", "expire", "open_ttl"),
    [
        ("immutable", 86400, 86400),
        ("immutable,open_ttl=5", 86400, 5),
        ("stat_cache_expire=2h,immutable", 7200, 86400),
        ("immutable,immutable=0", 60, 1),
    ],
)
def test_immutable_stands_for_long_times(words: str, expire: float, open_ttl: float) -> None:
    options = parse(["b", "/m", "-o", words])
    assert (options.stat_cache_expire, options.open_ttl) == (expire, open_ttl)


def test_flags_are_told_apart() -> None:
    assert tokenise(["-h"]).flags == {"help"}
    assert tokenise(["--version"]).flags == {"version"}
    assert "-s: without effect" in parse(["b", "/m", "-s"]).notes[0]
