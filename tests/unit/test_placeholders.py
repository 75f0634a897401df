"""Placeholders of a prefix: what they stand for, and what is refused by name."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.cli.options import complete
from bucketfs.cli.options.arguments import ParseError, tokenise
from bucketfs.cli.options.placeholders import (
    Facts,
    PlaceholderError,
    check,
    expand,
    fixed,
    literal,
)

NAMES = ("date", "time", "hostname", "uuid", "user", "executionID", "jobID", "nodeID", "env:A")


def facts(**environ: str) -> Facts:
    now = datetime(2026, 11, 28, 10, 23, 59, tzinfo=UTC)
    return Facts(environ, now, "host-1", "me", "0b0c3a2e-0000-4000-8000-000000000000")


ALL = facts(
    BACALHAU_EXECUTION_ID="e-1", BACALHAU_JOB_ID="j-2", BACALHAU_NODE_ID="n-3", A="a value/b"
)


@pytest.mark.parametrize(
    ("prefix", "expanded"),
    [
        ("runs/{jobID}/{date}/{time}/", "runs/j-2/2026-11-28/102359/"),
        ("{executionID}-{nodeID}/", "e-1-n-3/"),
        ("{hostname}/{user}/{uuid}/", "host-1/me/0b0c3a2e-0000-4000-8000-000000000000/"),
        ("{env:A}/x/", "a value/b/x/"),
        ("{{date}}/", "{date}/"),
        ("{{{date}}}/", "{2026-11-28}/"),
        ("plain/", "plain/"),
        ("", ""),
    ],
)
def test_expanded(prefix: str, expanded: str) -> None:
    assert expand(prefix, ALL) == expanded
    check(prefix)


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("{jobid}/", "{jobid}: unknown placeholder; did you mean {jobID}?"),
        ("{zzz}/", "{zzz}: unknown placeholder; known are date, time"),
        ("{}/", "{}: unknown placeholder"),
        ("{env:}/", "{env:}: unknown placeholder"),
        ("a{b/", "{ stands alone; a brace is written {{"),
        ("a}b/", "} stands alone; a brace is written }}"),
    ],
)
def test_wrong(prefix: str, words: str) -> None:
    for attempt in (lambda: expand(prefix, ALL), lambda: check(prefix), lambda: fixed(prefix)):
        with pytest.raises(PlaceholderError) as caught:
            attempt()
        assert str(caught.value).startswith(words)


@pytest.mark.parametrize("value", ["", ".", "..", "/a", "a/", "a//b", "a/../b", "a\n", "\udc80"])
def test_values_that_are_refused(value: str) -> None:
    with pytest.raises(PlaceholderError, match=r"^\{env:A\}: its value "):
        expand("{env:A}/", facts(A=value))


@pytest.mark.parametrize(("prefix", "variable"), [("{jobID}", "BACALHAU_JOB_ID"), ("{env:A}", "A")])
def test_unset_variables(prefix: str, variable: str) -> None:
    with pytest.raises(PlaceholderError, match=f"^{prefix}: {variable} is not set"):
        expand(prefix, facts())
    check(prefix)


@given(st.text())
def test_what_is_meant_literally_comes_back(text: str) -> None:
    assert expand(literal(text), facts()) == text
    assert fixed(literal(text)) == text


@given(st.lists(st.sampled_from(NAMES) | st.text(alphabet="ab-/{}", max_size=4), max_size=5))
def test_each_placeholder_alone_means_the_same_as_among_others(parts: list[str]) -> None:
    def written(part: str) -> str:
        return f"{{{part}}}" if part in NAMES else literal(part)

    together = expand("".join(map(written, parts)), ALL)
    assert together == "".join(expand(written(part), ALL) for part in parts)


@given(st.text(alphabet="{}ab:/.", max_size=12), st.text(max_size=6))
def test_no_value_climbs(prefix: str, value: str) -> None:
    with contextlib.suppress(PlaceholderError):
        found = expand(f"top/{{env:A}}/{literal(prefix)}", facts(A=value))
        assert found.startswith("top/")
        assert ".." not in found.removesuffix(prefix).split("/")


@given(st.text(alphabet="{}ab/", max_size=12) | st.sampled_from(["x/{date}/y/", "x{{/{uuid}/"]))
def test_the_fixed_folders_lead_to_the_expanded_ones(prefix: str) -> None:
    with contextlib.suppress(PlaceholderError):
        assert expand(prefix, ALL).startswith(fixed(prefix))


ENVIRON = {"XDG_CONFIG_HOME": "/none", "HOME": "/none", "A": "x", "DOT": "."}


class TestCommandLine:
    def test_spec_and_source(self) -> None:
        text = "b:/runs/{env:A}-{{}}"
        options = complete.build(tokenise([text, "/m"]), ENVIRON)
        assert (options.prefix, options.spec, options.source) == (
            "runs/x-{}/",
            text,
            "b:/runs/x-{}",
        )

    def test_one_uuid_a_mount(self) -> None:
        found = tokenise(["b:/{uuid}/{uuid}", "/m"])
        first, second, _ = complete.build(found, ENVIRON).prefix.split("/")
        assert first == second
        assert complete.build(found, ENVIRON).prefix.split("/")[0] != first

    @pytest.mark.parametrize("text", ["b:/{env:DOT}", "b:/.{env:DOT}", "b:/{env:NONE}", "b:/{"])
    def test_refused(self, text: str) -> None:
        with pytest.raises(ParseError):
            complete.build(tokenise([text, "/m"]), ENVIRON)

    def test_not_in_the_bucket(self) -> None:
        with pytest.raises(ParseError, match="not a bucket name"):
            complete.build(tokenise(["b-{date}", "/m"]), ENVIRON)

    def test_in_a_dataset(self, tmp_path: Path) -> None:
        directory = tmp_path / "bucketfs"
        directory.mkdir()
        file = directory / "data.toml"
        file.write_text('bucket = "b"\nprefix = "runs/{env:A}"\n')
        file.chmod(0o644)
        environ = ENVIRON | {"XDG_CONFIG_HOME": str(tmp_path)}
        options = complete.build(tokenise(["dataset://data/{env:A}", "/m"]), environ)
        assert options.prefix == "runs/x/x/"
        options = complete.build(tokenise(["data", "/m"]), environ, expand=False)
        assert options.prefix == "runs/"
        file.write_text('bucket = "b"\nprefix = "{jobid}"\n')
        with pytest.raises(ParseError, match=r"data\.toml: \{jobid\}: unknown placeholder"):
            complete.build(tokenise(["data", "/m"]), environ)
