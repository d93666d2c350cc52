"""The talker's prompt as ids: which text id and which codec id make up each row.

Row layouts A to D are those of docs/models.md (the official package's non-streaming and streaming
prompts, without and with in-context reference). Integers only; models/talker.py embeds them.
"""

from dataclasses import dataclass, field, replace

from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.errors import BadRequest
from qwen3_audio.models.configs import TalkerConfig
from qwen3_audio.types import Codes, SpeechRequest, VoicePrompt

NONE = -1  # no codec id in this row


@dataclass(frozen=True, slots=True)
class Row:
    text_id: int
    codec_id: int = NONE


@dataclass(frozen=True, slots=True)
class Prompt:
    """Rows of the prompt; to some of them a speaker vector or a reference frame is added."""

    rows: tuple[Row, ...]
    trailing: tuple[int, ...] = ()  # text ids of the frames that follow; then padding
    vector_row: int | None = None  # this row gets the speaker vector
    reference_row: int | None = None  # from this row on, one reference frame a row
    voice: VoicePrompt | None = None
    num_text_tokens: int = 0

    @property
    def reference(self) -> Codes | None:
        return None if self.voice is None or self.reference_row is None else self.voice.codes


@dataclass(frozen=True)
class PromptBuilder:
    """Request → Prompt, with the fixed parts tokenised once from the checkpoint's own tokenizer."""

    config: TalkerConfig
    tokenizer: TextTokenizer
    role: tuple[int, ...] = field(init=False)
    instruct_head: tuple[int, ...] = field(init=False)
    instruct_tail: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        start, end = (self.tokenizer.special(name) for name in ("<|im_start|>", "<|im_end|>"))
        newline = self.tokenizer.encode("\n")
        set_ = object.__setattr__  # the class is frozen once these are built
        set_(self, "role", (start, *self.tokenizer.encode("assistant"), *newline))
        set_(self, "instruct_head", (start, *self.tokenizer.encode("user"), *newline))
        set_(self, "instruct_tail", (end, *newline))

    def build(self, request: SpeechRequest, *, is_streaming_text: bool = False) -> Prompt:
        """Raises BadRequest for a speaker, language or voice that this checkpoint can't speak."""
        voice = request.voice_prompt
        if voice is not None:
            self._check_fit(voice)
        body = self.tokenizer.encode(request.text)
        head = self._head(request)
        if voice is not None and voice.codes is not None:
            prompt = self._in_context(head, body, voice, is_streaming_text)
        elif is_streaming_text:
            prompt = self._streaming(head, body)
        else:
            prompt = self._whole(head, body)
        return replace(prompt, num_text_tokens=len(body))

    def _check_fit(self, voice: VoicePrompt) -> None:
        """A prompt that was made with another checkpoint must not get as far as the batch."""
        codes = voice.codes
        is_fit = voice.speaker_vector.shape == (self.config.stack.hidden_size,)
        if is_fit and codes is not None:
            is_fit = codes.ndim == 2 and codes.shape[1] == self.config.num_code_groups
            is_fit = is_fit and bool(((codes >= 0) & (codes < self.config.codebook_size)).all())
        if not is_fit:
            raise BadRequest(
                "This voice was made with another checkpoint than the one that is loaded; "
                "make it again from its reference",
                param="voice",
            )

    def _head(self, request: SpeechRequest) -> Prompt:
        codec, text = self.config.codec, self.config.text
        rows = [Row(id_) for id_ in (*self._instruct(request), *self.role)]
        language_id = self._language_id(request)
        if language_id is None:
            tag = [codec.nothink, codec.think_bos, codec.think_eos]
        else:
            tag = [codec.think, codec.think_bos, language_id, codec.think_eos]
        rows += [Row(text.pad, id_) for id_ in tag]
        vector_row = None
        if request.voice_prompt is not None:
            vector_row = len(rows)
            rows.append(Row(text.pad))
        elif request.speaker is not None:
            rows.append(Row(text.pad, self._speaker_id(request.speaker)))
        rows.append(Row(text.bos, codec.pad))
        return Prompt(tuple(rows), vector_row=vector_row, voice=request.voice_prompt)

    def _instruct(self, request: SpeechRequest) -> tuple[int, ...]:
        if not request.instructions or not self.config.takes_instructions:
            return ()
        words = self.tokenizer.encode(request.instructions)
        return (*self.instruct_head, *words, *self.instruct_tail)

    def _whole(self, head: Prompt, body: list[int]) -> Prompt:  # layout A
        codec, text = self.config.codec, self.config.text
        rows = [Row(id_, codec.pad) for id_ in (*body, text.eos)]
        return replace(head, rows=(*head.rows, *rows, Row(text.pad, codec.bos)))

    def _streaming(self, head: Prompt, body: list[int]) -> Prompt:  # layout B
        rows = (*head.rows, Row(body[0], self.config.codec.bos))
        return replace(head, rows=rows, trailing=(*body[1:], self.config.text.eos))

    def _in_context(
        self, head: Prompt, body: list[int], voice: VoicePrompt, is_streaming_text: bool
    ) -> Prompt:
        assert voice.codes is not None
        codec, text = self.config.codec, self.config.text
        words = [*self.tokenizer.encode(voice.text or ""), *body, text.eos]
        num_codec_rows = 1 + len(voice.codes)
        start = len(head.rows)
        if not is_streaming_text:  # layout C
            first = [Row(id_, codec.pad) for id_ in words]
            second = [Row(text.pad, codec.bos), *[Row(text.pad)] * len(voice.codes)]
            rows, reference_row = [*first, *second], start + len(words) + 1
            trailing: tuple[int, ...] = ()
        else:  # layout D: text and codes side by side, what is left of the text trails
            padded = words + [text.pad] * (num_codec_rows - len(words))
            rows = [Row(padded[0], codec.bos), *(Row(id_) for id_ in padded[1:num_codec_rows])]
            reference_row = start + 1
            trailing = tuple(words[num_codec_rows:])
        return replace(
            head, rows=(*head.rows, *rows), trailing=trailing, reference_row=reference_row
        )

    def _speaker_id(self, speaker: str) -> int:
        speakers = self.config.speakers
        if speaker.lower() not in speakers:
            raise BadRequest(
                f"Unknown voice {speaker!r}; this checkpoint has {', '.join(speakers)}",
                param="voice",
            )
        return speakers[speaker.lower()]

    def _language_id(self, request: SpeechRequest) -> int | None:
        """A dialect speaker keeps its dialect unless a language other than Chinese is named."""
        language = (request.language or "auto").lower()
        dialect = self.config.speaker_dialects.get((request.speaker or "").lower(), "")
        if language in ("auto", "chinese") and dialect in self.config.dialects:
            return self.config.dialects[dialect]
        if language == "auto":
            return None
        if language not in self.config.languages:
            names = ", ".join(name.capitalize() for name in self.config.languages)
            raise BadRequest(
                f"This model doesn't speak {language.capitalize()}; it speaks {names}",
                param="language",
            )
        return self.config.languages[language]
