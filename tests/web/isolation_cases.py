"""One row for every route: how Bob tries to reach what is Alice's through it.

A new route needs a row here, or test_isolation.py fails. A route without any id of something that
a user owns belongs to WITHOUT_IDS; everything under /admin is closed to users and needs none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from fake_server import make_tone
from store_rows import make_consent, make_stored, make_voice

from qwen3_audio.store.batches import NewBatch, start_batch
from qwen3_audio.store.keys import add_key
from qwen3_audio.store.opening import Store


@dataclass(frozen=True)
class Things:
    """The numbers of what somebody owns."""

    voice_id: int
    consent_id: int
    generation_id: int
    batch_id: int
    key_id: int


# Nobody has these; what is Alice's must look the same to Bob.
NOTHING = Things(*(900_000_001 + index for index, _ in enumerate(fields(Things))))


def make_things(store: Store, user_id: int) -> Things:
    """One of everything."""
    with store.db.write() as conn:
        batch = NewBatch(response_format="wav", language="auto", num_texts=2, is_stored=True)
        batch_id = start_batch(conn, user_id, batch)
        key_id = add_key(conn, user_id, secret=store.secret).key_id
    return Things(
        voice_id=make_voice(store, user_id, sound=make_tone(1.0, 24_000)),
        consent_id=make_consent(store, user_id).consent_id,
        generation_id=make_stored(store, user_id),
        batch_id=batch_id,
        key_id=key_id,
    )


Request = dict[str, Any]  # arguments of a client's `request`; without `url` it is the route's path
Case = Callable[[Things], Sequence[Request]]


def _path(template: str) -> Case:
    """A route whose only id is in its path."""
    return lambda of: [
        {"url": template.format(**{f.name: getattr(of, f.name) for f in fields(of)})}
    ]


def _voice_everywhere(of: Things) -> list[Request]:
    voices = (f"voice_{of.voice_id}", {"id": f"voice_{of.voice_id}"})
    return [
        *({"json": {"input": "Hello", "voice": voice}} for voice in voices),
        {"files": {"input": (None, "Hello"), "voice": (None, f"voice_{of.voice_id}")}},
    ]


def _tts(of: Things) -> list[Request]:
    return [{"json": {"text": "Hello", "voice_id": voice}} for voice in _spellings(of.voice_id)]


def _batch_tts(of: Things) -> list[Request]:
    texts = ["Hello", "there"]
    return [{"json": {"texts": texts, "voice_id": voice}} for voice in _spellings(of.voice_id)]


def _spellings(number: int) -> list[Any]:
    return [number, str(number)]


def _new_voice(of: Things) -> list[Request]:
    consent = f"cons_{of.consent_id}"
    fields_of_it = {"name": "a", "ref_text": "b", "consent": consent}
    files = {"audio_sample": ("a.wav", make_tone(1.0))}
    return [{"data": fields_of_it, "files": files}]


def _voice_path(rest: str = "", **more: Any) -> Case:
    return lambda of: [{"url": f"/v1/audio/voices/voice_{of.voice_id}{rest}", **more}]


def _consent_path(**more: Any) -> Case:
    return lambda of: [{"url": f"/v1/audio/voice_consents/cons_{of.consent_id}", **more}]


def _meaning(of: Things) -> list[Request]:
    body = {"voice": f"voice_{of.voice_id}"}
    return [{"url": "/v1/audio/voice_names/alloy", "json": body}]


RENAMED = {"name": "Renamed"}
CASES: dict[str, Case] = {
    "POST /v1/audio/voices": _new_voice,
    "GET /v1/audio/voices/{voice}": _voice_path(),
    "POST /v1/audio/voices/{voice}": _voice_path(json=RENAMED),
    "DELETE /v1/audio/voices/{voice}": _voice_path(),
    "GET /v1/audio/voices/{voice}/sample": _voice_path("/sample"),
    "GET /v1/audio/voice_consents/{consent_id}": _consent_path(),
    "POST /v1/audio/voice_consents/{consent_id}": _consent_path(json=RENAMED),
    "DELETE /v1/audio/voice_consents/{consent_id}": _consent_path(),
    "PUT /v1/audio/voice_names/{name:path}": _meaning,
    "DELETE /keys/{key_id}": _path("/keys/{key_id}"),
    "GET /voices/{voice_id}": _path("/voices/{voice_id}"),
    "GET /voices/{voice_id}/sample": _path("/voices/{voice_id}/sample"),
    "POST /voices/{voice_id}/delete": _path("/voices/{voice_id}/delete"),
    "DELETE /voices/{voice_id}": _path("/voices/{voice_id}"),
    "POST /tts": _tts,
    "POST /batchtts": _batch_tts,
    "GET /getstored/{generation_id}": _path("/getstored/{generation_id}"),
    "DELETE /getstored/{generation_id}": _path("/getstored/{generation_id}"),
    "GET /generations/{generation_id}": _path("/generations/{generation_id}"),
    "POST /v1/audio/speech": _voice_everywhere,
}

# Lists take a number as the place from which they go on: they must show nothing of Alice's.
LISTS: dict[str, Case] = {
    "GET /keys": lambda of: [{}, {"params": {"before": of.key_id + 1}}],
    "GET /voices": lambda of: [{}, {"params": {"before": of.voice_id + 1}}],
    "GET /generations": lambda of: [
        {},
        {"params": {"before": of.generation_id + 1}},
        {"params": {"batch_id": of.batch_id}},
    ],
    "GET /v1/audio/voices": lambda of: [{}],
    "GET /v1/audio/voice_consents": lambda of: [
        {},
        {"params": {"after": f"cons_{of.consent_id + 1}"}},
    ],
    "GET /v1/audio/voice_names": lambda of: [{}],
}

WITHOUT_IDS = {
    "POST /v1/audio/voice_consents",
    "DELETE /v1/audio/voice_names/{name:path}",
    "POST /auth/exchange-invite",
    "GET /usage",
    "POST /keys",
    "POST /clonevoice",
    "POST /designvoice",
    "POST /v1/audio/transcriptions",
    "POST /v1/audio/translations",
    "GET /v1/models",
    "GET /v1/models/{model_id:path}",
    "GET /v1/audio/models",
    "GET /livez",
    "GET /healthz",
    "GET /health",
    "GET /readyz",
    "GET /ready",
    "GET /metrics",
    "GET /v1",
    "GET /v1/",
}
