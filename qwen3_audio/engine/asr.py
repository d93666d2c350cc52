"""The recognition runner: pieces of sound in, tokens out.

One step: new pieces are heard (mel, encoder) and prefilled together, every other piece advances by
one row, then all choose one token. Pieces of one file and of many requests share every step.
Letters in shapes: B pieces, D hidden size, N audio tokens, V vocabulary.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from qwen3_audio.engine.asr_prompt import (
    TEXT_TAG,
    UNFINISHED,
    RepetitionStop,
    TextStream,
    build_prompt,
    parse_output,
)
from qwen3_audio.engine.engine import Ending, Runner
from qwen3_audio.engine.paged_decoder import PagedDecoder
from qwen3_audio.engine.sampling import Choose, LogSum, RowSettings, choose, draw_keys, log_sum_on
from qwen3_audio.engine.scheduler import Scheduler
from qwen3_audio.engine.sequence import Sequence
from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.models.asr import AudioEncoder
from qwen3_audio.models.linear import Linear
from qwen3_audio.models.mel import log_mel_16k
from qwen3_audio.types import EndReason, ModelKind, Pcm, TranscriptionRequest


@dataclass(frozen=True, slots=True)
class PieceText:
    """Text of a piece that is final; the first one comes when the model has named the language."""

    index: int
    delta: str
    language: str


@dataclass(frozen=True, slots=True)
class PieceEnd:
    """The last item of a piece."""

    index: int
    delta: str  # what its PieceTexts did not yet hold
    text: str
    language: str
    token_ids: tuple[int, ...]
    avg_logprob: float
    num_prompt_tokens: int
    reason: EndReason


@dataclass(slots=True, eq=False, kw_only=True)
class AsrSequence(Sequence):
    """One piece of a recording in flight."""

    request: TranscriptionRequest
    index: int
    samples: Pcm
    language: str | None  # forced
    max_tokens: int
    settings: tuple[float, int, float]
    token_ids: list[int] = field(default_factory=list)
    num_launched: int = 0  # tokens asked of a device whose results come late
    settled: str = ""  # what the first tokens say, up to a whole character
    num_settled: int = 0
    sum_logprob: float = 0.0
    repetition: RepetitionStop = field(default_factory=RepetitionStop)
    heard: str | None = None  # the language that the consumer knows of
    stream: TextStream = field(init=False)

    def __post_init__(self) -> None:
        self.stream = TextStream(self.language)


class ListeningRunner(Runner):
    """What every runner of an ASR checkpoint does on the host: tokens into text, and its end."""

    kind = ModelKind.ASR

    def __init__(
        self,
        encoder: AudioEncoder,
        embedding: Tensor,
        head: Linear,
        *,
        tokenizer: TextTokenizer,
        eos_ids: tuple[int, ...],
        decoder: PagedDecoder,
        scheduler: Scheduler[AsrSequence],
    ) -> None:
        self.encoder, self.embedding, self.head = encoder, embedding, head
        self.tokenizer, self.eos_ids = tokenizer, frozenset(eos_ids)
        self.decoder, self.scheduler = decoder, scheduler

    def release(self, seq: AsrSequence) -> None:
        self.decoder.release(seq)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.embedding[ids].to(self.decoder.stack.activations)

    def _take(self, seq: AsrSequence, token: int, logprob: float) -> list[Ending]:
        """The next token; its end, if this is it."""
        seq.sum_logprob += logprob
        reason = self._take_token(seq, token)
        return [] if reason is None else [Ending(seq, reason, self._end_of(seq, reason))]

    def _take_token(self, seq: AsrSequence, token: int) -> EndReason | None:
        if token in self.eos_ids:
            return EndReason.STOP
        seq.token_ids.append(token)
        if seq.repetition.add(token):
            return EndReason.LOOP
        if len(seq.token_ids) >= seq.max_tokens:
            return EndReason.LENGTH
        raw = self._decode_all(seq)
        delta = seq.stream.feed(raw)
        is_news = seq.heard is None and (delta != "" or TEXT_TAG in raw)
        if is_news:
            seq.heard = parse_output(raw, seq.language)[0]
        if delta or is_news:
            seq.emit(PieceText(seq.index, delta, seq.heard or ""))
        return None

    def _decode_all(self, seq: AsrSequence) -> str:
        """What all tokens say; only those that may still be part of a character are read again."""
        raw = seq.settled + self.tokenizer.decode(seq.token_ids[seq.num_settled :])
        if not raw.endswith(UNFINISHED):
            seq.settled, seq.num_settled = raw, len(seq.token_ids)
        return raw

    def _end_of(self, seq: AsrSequence, reason: EndReason) -> PieceEnd:
        raw = self.tokenizer.decode(seq.token_ids)
        language, text = parse_output(raw, seq.language)
        return PieceEnd(
            index=seq.index,
            delta=seq.stream.finish(raw),
            text=text,
            language=language,
            token_ids=tuple(seq.token_ids),
            avg_logprob=seq.sum_logprob / (len(seq.token_ids) + 1),
            num_prompt_tokens=seq.num_prompt_tokens,
            reason=reason,
        )


class AsrRunner(ListeningRunner):
    """Runs one ASR checkpoint. Everything here happens on the engine's thread."""

    def __init__(
        self,
        encoder: AudioEncoder,
        embedding: Tensor,
        head: Linear,
        *,
        tokenizer: TextTokenizer,
        eos_ids: tuple[int, ...],
        decoder: PagedDecoder,
        scheduler: Scheduler[AsrSequence],
        choose: Choose = choose,
        log_sum: LogSum | None = None,
    ) -> None:
        self.choose, self.log_sum = choose, log_sum or log_sum_on(None)
        super().__init__(
            encoder,
            embedding,
            head,
            tokenizer=tokenizer,
            eos_ids=eos_ids,
            decoder=decoder,
            scheduler=scheduler,
        )

    @torch.inference_mode()
    def step(self) -> list[Ending]:
        plan = self.scheduler.plan()
        seqs, hidden = plan.decode + plan.prefill, []
        if plan.decode:
            last = torch.tensor([seq.token_ids[-1] for seq in plan.decode])
            rows = self._embed(last.to(self.decoder.device))
            slots = self.decoder.index(plan.decode)
            hidden.append(self.decoder.advance(plan.decode, slots, rows))
        if plan.prefill:
            hidden.append(self.decoder.prefill(plan.prefill, self._prompts(plan.prefill)))
        return self._take_tokens(seqs, torch.cat(hidden)) if seqs else []

    def _prompts(self, seqs: list[AsrSequence]) -> list[Tensor]:
        """Prompt rows [T, D] with the sound in place of its padding."""
        device = self.decoder.device
        mels = [log_mel_16k(torch.tensor(seq.samples).to(device)) for seq in seqs]
        prompts = []
        for seq, sound in zip(seqs, self.encoder.encode(mels), strict=True):
            prompt = build_prompt(
                self.tokenizer, len(sound), context=seq.request.context, language=seq.language
            )
            rows = self._embed(torch.tensor(prompt.ids, device=device))
            rows[prompt.audio_start : prompt.audio_start + len(sound)] = sound.to(rows.dtype)
            prompts.append(rows)
        return prompts

    def _take_tokens(self, seqs: list[AsrSequence], hidden: Tensor) -> list[Ending]:
        logits = self.head(hidden).float()
        device = logits.device
        steps = torch.tensor([len(seq.token_ids) for seq in seqs], device=device)
        seeds = torch.tensor([seq.request.seed for seq in seqs], device=device)
        settings = RowSettings.build([seq.settings for seq in seqs], logits.shape[1], device)
        chosen = self.choose(logits, draw_keys(seeds, steps, 1)[:, 0], settings)
        logprobs = logits.gather(1, chosen[:, None])[:, 0] - self.log_sum(logits)
        endings: list[Ending] = []
        for seq, token, logprob in zip(seqs, chosen.tolist(), logprobs.tolist(), strict=True):
            endings += self._take(seq, token, logprob)
        return endings
