"""Voices out of the store, ready to speak: found by what a request calls them, prompt and all."""

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Connection

from qwen3_audio import orders
from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.errors import BadRequest, NotFound
from qwen3_audio.languages import OPENAI_VOICES
from qwen3_audio.orders import find_model, find_speaker, spell_speakers
from qwen3_audio.store.columns import HIGHEST_ID
from qwen3_audio.store.opening import Store
from qwen3_audio.store.voice_names import find_target
from qwen3_audio.store.voices import (
    VoiceToSpeak,
    find_voice_by_name,
    get_voice_to_speak,
    list_voices,
    set_prompt,
)
from qwen3_audio.types import SPEECH_RATE_HZ, Backend, ModelKind, Pcm, VoicePrompt
from qwen3_audio.voice_prompts import pack_prompt, unpack_prompt
from qwen3_audio.voice_samples import prepare_reference

MAX_LISTED = 20  # of the user's voices, in a refusal
_VOICE_ID = re.compile(r"voice_([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class StoredVoice:
    """A voice that a request may speak with; its owner is another one for a shared name."""

    owner_id: int
    row: VoiceToSpeak


def parse_voice_id(text: str) -> int | None:
    """The number in `voice_7`; None for anything else, also for what no number could be."""
    match = _VOICE_ID.fullmatch(text.strip())
    return int(match[1]) if match and int(match[1]) <= HIGHEST_ID else None


class StoredVoices:
    """Looks up on worker threads, makes prompts on the back-end."""

    def __init__(self, store: Store, backend: Backend) -> None:
        self._store = store
        self._backend = backend

    def get(self, user_id: int, voice_id: int) -> StoredVoice:
        """NotFound also for somebody else's."""
        with self._store.db.read() as conn:
            return StoredVoice(user_id, get_voice_to_speak(conn, user_id, voice_id))

    def find(self, user_id: int, voice: str | None) -> StoredVoice | str:
        """What a name means to this user: a stored voice, or the speaker to ask a checkpoint for.

        An id, the user's own re-mapping, that of everybody, speakers and OpenAI's names, the
        user's voices by name. BadRequest lists what there is; NotFound for an id that is not.
        """
        name = (voice or "").strip() or orders.DEFAULT_VOICE
        with self._store.db.read() as conn:
            return self._find(conn, user_id, name)

    def _find(self, conn: Connection, user_id: int, name: str) -> StoredVoice | str:
        voice_id = parse_voice_id(name)
        if voice_id is not None:
            with suppress(NotFound):
                return StoredVoice(user_id, get_voice_to_speak(conn, user_id, voice_id))
        target = find_target(conn, user_id, name)
        if target is not None and target.voice_id is not None:
            owner_id = target.owner_id or user_id
            return StoredVoice(owner_id, get_voice_to_speak(conn, owner_id, target.voice_id))
        if target is not None and target.speaker is not None:
            return target.speaker
        if self.is_speaker(name):
            return name
        found = find_voice_by_name(conn, user_id, name)
        if found is not None:
            return StoredVoice(user_id, get_voice_to_speak(conn, user_id, found))
        if voice_id is not None:
            raise NotFound(f"There is no voice {name}.", param="voice", code="voice_not_found")
        own = list_voices(conn, user_id, page_size=MAX_LISTED).items
        raise self._unknown(name, [row.name for row in own])

    async def load_prompt(self, voice: StoredVoice) -> VoicePrompt:
        """As it was kept; made anew from the reference where another checkpoint made it."""
        model = orders.get_model(
            self._backend.models(), ModelKind.BASE, purpose=orders.STORED_NEEDS
        )
        row = voice.row
        if row.prompt is not None and row.model_fingerprint == model.fingerprint:
            prompt = unpack_prompt(row.prompt, fingerprint=model.fingerprint, text=row.ref_text)
            if prompt is not None:
                return prompt
        samples = await asyncio.to_thread(self._read_reference, row.reference_sha256)
        prompt = await self._backend.make_voice_prompt(samples, row.ref_text)
        await asyncio.to_thread(self._keep, voice, prompt, model.fingerprint)
        return prompt

    def _read_reference(self, sha256: str) -> Pcm:
        data = self._store.blobs.read(sha256)
        return prepare_reference(
            decode_audio(data, sample_rate_hz=SPEECH_RATE_HZ, max_seconds=float("inf"))
        )

    def _keep(self, voice: StoredVoice, prompt: VoicePrompt, fingerprint: str) -> None:
        data = pack_prompt(prompt, fingerprint=fingerprint)
        with self._store.db.write() as conn:
            set_prompt(
                conn,
                voice.owner_id,
                voice.row.voice_id,
                prompt=data,
                model_fingerprint=fingerprint,
            )

    def _speakers(self) -> tuple[str, ...]:
        model = find_model(self._backend.models(), ModelKind.CUSTOM_VOICE)
        return model.speakers if model else ()

    def is_speaker(self, name: str) -> bool:
        """Whether a checkpoint, or the documents, know the name; asked of a checkpoint later."""
        if name.lower() in OPENAI_VOICES:
            return True
        try:
            find_speaker(name, self._speakers())
        except BadRequest:
            return False
        return True

    def _unknown(self, name: str, own: list[str]) -> BadRequest:
        choices = [*spell_speakers(self._speakers()), *OPENAI_VOICES, *own]
        return BadRequest(
            f"Unknown voice {name[:60]!r}; choose one of {', '.join(choices)}.",
            param="voice",
            code="invalid_value",
        )
