"""Keys in JSON: the shapes that stores hand out, and one line for each way to get them wrong."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.key_json import KeyFile, is_json, parse
from bucketfs.passwd import PasswdError

SECRET = "hush-hush-secret"
PAIR = {"accessKeyID": "AK", "secretAccessKey": SECRET}
SNAKE = {"access_key_id": "AK", "secret_access_key": SECRET}


def wrong(found: object) -> str:
    text = found if isinstance(found, str) else json.dumps(found)
    assert is_json(text)
    with pytest.raises(PasswdError) as caught:
        parse(text)
    line = str(caught.value)
    assert SECRET not in line
    assert "\n" not in line
    return line


@pytest.mark.parametrize("pair", [PAIR, SNAKE, {"AccessKeyId": "AK", "SecretAccessKey": SECRET}])
@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"s3": d}, lambda d: [d]])
@pytest.mark.parametrize("token", ["session_token", "sessionToken"])
def test_keys(pair: dict[str, str], wrap: object, token: str) -> None:
    more = {"endpoint": "s3.example.org/", "bucket": "data", token: "T", "region": "x"}
    found = parse(json.dumps(wrap(pair | more), indent=2))  # type: ignore[operator]
    assert found == KeyFile("AK", SECRET, "T", "https://s3.example.org", "data")
    assert SECRET not in repr(found)


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: [{"credentials": d}], lambda d: [d]])
def test_ibm(wrap: object) -> None:
    service = {
        "apikey": "x",
        "cos_hmac_keys": SNAKE,
        "endpoints": "https://control.cloud-object-storage.cloud.ibm.com/v2/endpoints",
        "iam_apikey_name": "n",
        "resource_instance_id": "crn:v1:…",
    }
    found = parse("\ufeff" + json.dumps(wrap(service)))  # type: ignore[operator]
    assert found == KeyFile("AK", SECRET, is_ibm=True)


def test_empty_keys_sign_nothing() -> None:
    more = {"endpoint": "http://h:9000", "bucket": "b", "sessionToken": None}
    found = parse(json.dumps({"accessKeyID": "", "secretAccessKey": "", **more}))
    assert found == KeyFile("", "", "", "http://h:9000", "b")


def test_what_is_said_twice_alike() -> None:
    assert parse(json.dumps({**PAIR, **SNAKE, "s3": PAIR})) == KeyFile("AK", SECRET)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ("{", "looks like JSON and is not valid (line 1)"),
        ("{\n'a': 1}", "(line 2)"),
        ('{"a":' * 100_000, "is not valid (unreadable)"),
        ([PAIR, PAIR], "a list of 2 credentials"),
        ({}, 'no "accessKeyID"'),
        ({"apikey": SECRET}, "with HMAC keys"),
        ({"accessKeyID": "AK"}, 'no "secretAccessKey"'),
        ({"secretAccessKey": SECRET}, 'no "accessKeyID"'),
        ({"accessKeyID": "AK", "secretAccessKey": None}, 'no "secretAccessKey"'),
        ({"cos_hmac_keys": {"access_key_id": "AK"}}, 'no "secretAccessKey"'),
        ({"cos_hmac_keys": SECRET}, '"cos_hmac_keys" must be an object'),
        ({"s3": None}, '"s3" must be an object'),
        ({"s3": {"accessKeyID": 1}}, '"s3.accessKeyID" must be a text'),
        ({**PAIR, "secretAccessKey": SECRET + "\n"}, '"secretAccessKey" has a blank'),
        ({**PAIR, "accessKeyID": "AK "}, '"accessKeyID" has a blank'),
        ({**PAIR, "accessKeyID": ""}, '"accessKeyID" is empty and "secretAccessKey" is not'),
        ({**PAIR, "secretAccessKey": ""}, '"secretAccessKey" is empty and "accessKeyID" is not'),
        (
            {**PAIR, "access_key_id": "other"},
            '"accessKeyID" and "access_key_id" contradict each other',
        ),
        (
            {**PAIR, "s3": {"secretAccessKey": "x"}},
            '"secretAccessKey" and "s3.secretAccessKey" contradict',
        ),
        (
            f'{{"accessKeyID": "A", "accessKeyID": "B", "secretAccessKey": "{SECRET}"}}',
            "contradict each other",
        ),
        (
            {"accessKeyID": "", "secretAccessKey": "", "sessionToken": SECRET},
            '"sessionToken" contradicts the empty "accessKeyID"',
        ),
        ({**PAIR, "endpoint": "ftp://h"}, '"endpoint" must begin with http'),
        ({**PAIR, "endpoint": "https://"}, '"endpoint" must begin with http'),
        ({**PAIR, "endpoint": f"https://me:{SECRET}@h"}, "without a user name"),
        ({**PAIR, "endpoint": ["h"]}, '"endpoint" must be a text'),
    ],
)
def test_wrong(found: object, words: str) -> None:
    assert words in wrong(found)


@pytest.mark.parametrize("text", ["AK:SK", "", "[default]", "[1]", "# {", '"a"'])
def test_not_json(text: str) -> None:
    assert not is_json(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*PAIR, *SNAKE, "s3", "credentials", "cos_hmac_keys", "endpoint"]),
                inner,
            )
        ),
    )
)
def test_any_json_gives_keys_or_one_line(found: object) -> None:
    text = json.dumps(found)
    if is_json(text):
        with contextlib.suppress(PasswdError):
            assert bool(parse(text).access_key) == bool(parse(text).secret_key)
