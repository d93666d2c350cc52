"""No body at all, however odd, is our fault: no answer is 5xx."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROUTES = ("/v1/audio/speech", "/v1/audio/transcriptions")
NAMES = (
    *("model", "input", "voice", "speaker", "response_format", "speed", "language", "stream"),
    *("instructions", "audio_sample", "audio_sample_text", "stream_format", "seed", "top_k"),
    *("temperature", "top_p", "max_new_tokens", "sample_rate", "file", "prompt", "keywords"),
    *("keywords[]", "languages", "input_audio", "timestamp_granularities[]", "hotwords"),
)
WORDS = (
    "mp3",
    "wav",
    "pcm",
    "sse",
    "true",
    "1",
    "nan",
    "-1",
    "1e999",
    "en",
    "alloy",
    "[1]",
    "AAAA",
)
TEXTS = st.one_of(st.sampled_from(WORDS), st.text(max_size=30))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(("id", "data", "x")), inner)
    ),
    max_leaves=5,
)
NAME = st.one_of(st.sampled_from(NAMES), st.text(max_size=5))
BODIES = st.dictionaries(NAME, VALUES, max_size=8)
many = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def check(reply: Any) -> None:
    assert reply.status_code in (200, 400), reply.text
    if reply.status_code == 400:
        assert reply.json()["error"]["message"]


@pytest.mark.parametrize("route", ROUTES)
@many
@given(body=BODIES, speaks=st.booleans())
def test_any_json_is_answered(
    client: TestClient, route: str, body: dict[str, Any], speaks: bool
) -> None:
    if speaks:
        body = {"input": "hi", **body}
    check(client.post(route, content=json.dumps(body).encode()))


@pytest.mark.parametrize("route", ROUTES)
@many
@given(body=st.binary(max_size=60))
def test_any_bytes_are_answered(client: TestClient, route: str, body: bytes) -> None:
    check(client.post(route, content=body))


PART = st.tuples(
    NAME.filter(lambda name: name.isprintable()),
    st.one_of(
        TEXTS.map(lambda text: (None, text)),
        st.tuples(st.sampled_from(("a.wav", "", "../x")), st.binary(max_size=40)),
    ),
)


@pytest.mark.parametrize("route", ROUTES)
@many
@given(parts=st.lists(PART, min_size=1, max_size=6))
def test_any_form_is_answered(client: TestClient, route: str, parts: list[Any]) -> None:
    check(client.post(route, files=parts))


@pytest.mark.parametrize("route", ROUTES)
@many
@given(body=st.binary(max_size=120), before=st.booleans())
def test_any_broken_form_is_answered(
    client: TestClient, route: str, body: bytes, before: bool
) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="input"\r\n\r\nhi\r\n' if before else b""
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    check(client.post(route, content=head + body, headers=headers))
