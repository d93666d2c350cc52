"""The speech runner: prompts in, frames of codes, sound out.

One step: new requests are prefilled, then every running request makes one frame (talker, first
code, code predictor), then requests whose next piece of sound is due share a codec call.
All state of a request lies in its slot of tensors made at start.
Letters in shapes: S slots, B running requests, D talker width, Q code groups, V codec vocabulary.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from qwen3_audio.engine.engine import Ending, Runner
from qwen3_audio.engine.paged_decoder import PagedDecoder
from qwen3_audio.engine.prompts import NONE, Prompt
from qwen3_audio.engine.sampling import Choose, RowSettings, choose, draw_keys, penalise
from qwen3_audio.engine.scheduler import Scheduler
from qwen3_audio.engine.speech_sound import SoundMaker, SpeechSequence
from qwen3_audio.engine.weights import GenerationDefaults
from qwen3_audio.models.code_predictor import FrameCache, Sampler
from qwen3_audio.models.talker import Talker
from qwen3_audio.types import EndReason, ModelKind, Sampling, SpeechEnd

Predict = Callable[[Tensor, Tensor, Sampler], Tensor]
RowSetting = tuple[float, int, float]  # temperature, top-k, top-p
MIN_FRAMES = 2  # the official generate() bans the end for the first two
MIN_TEMPERATURE = 1e-5  # below it logits leave the range of float32; it is greedy long before


class _Slots:
    """The tensors that hold every slot's state between steps."""

    def __init__(self, talker: Talker, num_slots: int) -> None:
        width, vocab = talker.config.stack.hidden_size, talker.config.stack.vocab_size
        device = talker.device
        self.hidden = torch.zeros(num_slots, width, dtype=talker.stack.activations, device=device)
        self.inputs = torch.zeros_like(self.hidden)
        self.seen = torch.zeros(num_slots, vocab, dtype=torch.bool, device=device)
        self.seeds, self.frames, self.top_k, self.predictor_top_k = (
            torch.zeros(num_slots, dtype=torch.int64, device=device) for _ in range(4)
        )
        self.temperature, self.top_p, self.predictor_temperature, self.predictor_top_p = (
            torch.zeros(num_slots, device=device) for _ in range(4)
        )

    def talker_settings(self, slots: Tensor, max_top_k: int) -> RowSettings:
        return RowSettings(self.temperature[slots], self.top_k[slots], self.top_p[slots], max_top_k)

    def predictor_settings(self, slots: Tensor, max_top_k: int) -> RowSettings:
        return RowSettings(
            self.predictor_temperature[slots],
            self.predictor_top_k[slots],
            self.predictor_top_p[slots],
            max_top_k,
        )


class SpeechRunner(Runner):
    """What every runner of a TTS checkpoint does on the host: frames taken, sound asked for."""

    def __init__(
        self,
        kind: ModelKind,
        talker: Talker,
        sound: SoundMaker,
        *,
        defaults: GenerationDefaults,
        decoder: PagedDecoder,
        scheduler: Scheduler[SpeechSequence],
    ) -> None:
        self.kind, self.talker, self.sound = kind, talker, sound
        self.defaults, self.decoder, self.scheduler = defaults, decoder, scheduler
        config = talker.config
        with torch.inference_mode():
            pad = torch.tensor([config.text.pad], device=talker.device)
            self.pad = talker.embed_text(pad)
        ids = torch.arange(config.stack.vocab_size, device=talker.device)
        self.is_eos = ids == config.codec.eos
        self.is_banned = (ids >= config.codebook_size) & ~self.is_eos

    def connect(self, wake: Callable[[], None]) -> None:
        self.sound.wake = wake

    def release(self, seq: SpeechSequence) -> None:
        self.decoder.release(seq)

    def _settings(self, seq: SpeechSequence) -> tuple[RowSetting, RowSetting]:
        """The talker's and the predictor's."""
        sampling, defaults = seq.request.sampling, self.defaults
        return (
            resolve(sampling, defaults.temperature, defaults.top_k, defaults.top_p),
            resolve(
                sampling,
                defaults.predictor_temperature,
                defaults.predictor_top_k,
                defaults.predictor_top_p,
            ),
        )

    def _take_frame(self, seq: SpeechSequence, frame: list[int]) -> EndReason | None:
        seq.num_frames += 1
        if seq.loop.is_loop(frame):
            return EndReason.LOOP
        return EndReason.LENGTH if seq.num_frames >= seq.max_frames else None

    def _make_sound(self, seqs: list[SpeechSequence]) -> list[Ending]:
        """Give the codec what is due as soon as it has room, and close those that are over."""
        while self.sound.start(seqs):
            self._end_silent()
        return [
            Ending(seq, seq.reason, SpeechEnd(seq.reason, seq.num_frames, len(seq.prompt.rows)))
            for seq in seqs
            if seq.is_over and seq.reason is not None
        ]

    def _end_silent(self) -> None:
        """Frames made while the silence was found are left out, however many there are."""
        for seq in self.sound.collect():
            if seq.num_waiting or seq.reason not in (EndReason.LENGTH, EndReason.LOOP):
                seq.drop_waiting()
                seq.reason = EndReason.SILENCE


class TtsRunner(SpeechRunner):
    """Runs one TTS checkpoint. Everything here happens on the engine's thread."""

    def __init__(
        self,
        kind: ModelKind,
        talker: Talker,
        sound: SoundMaker,
        *,
        defaults: GenerationDefaults,
        decoder: PagedDecoder,
        scheduler: Scheduler[SpeechSequence],
        predict: Predict | None = None,
        choose: Choose = choose,
    ) -> None:
        """`predict` makes the codes of a frame after the first; default: the talker's predictor."""
        self.predict = predict or partial(
            talker.predictor, cache=FrameCache(talker.predictor, scheduler.num_slots)
        )
        self.choose = choose
        super().__init__(
            kind, talker, sound, defaults=defaults, decoder=decoder, scheduler=scheduler
        )
        self.slots = _Slots(talker, scheduler.num_slots)
        self.top_ks: dict[int, tuple[int, int]] = {}  # slot → talker's and predictor's, on the host

    @property
    def has_work(self) -> bool:
        """False: the next step would only wait for the codec."""
        going = any(seq.reason is None for seq in self.scheduler.running.values())
        return going or self.sound.has_news or self.scheduler.may_start

    @torch.inference_mode()
    def step(self) -> list[Ending]:
        self._end_silent()
        plan = self.scheduler.plan()
        going = [seq for seq in plan.decode if seq.reason is None]
        if going:
            self._advance(going)
        if plan.prefill:
            self._prefill(plan.prefill)
        self._make_frames(going + plan.prefill)
        return self._make_sound(plan.decode + plan.prefill)

    # -- talker --------------------------------------------------------------------------------

    def _prefill(self, seqs: list[SpeechSequence]) -> None:
        """Run whole prompts, packed; leaves the last row's hidden state in each slot."""
        prompts = []
        for seq in seqs:
            self._fill_slot(seq)
            rows, seq.trailing = embed_prompt(self.talker, seq.prompt)
            prompts.append(rows)
        self.slots.hidden[self.decoder.index(seqs)] = self.decoder.prefill(seqs, prompts)

    def _fill_slot(self, seq: SpeechSequence) -> None:
        slots, slot = self.slots, seq.slot
        vocab, codebook = self.talker.config.stack.vocab_size, self.talker.config.codebook_size
        talker, predictor = self._settings(seq)
        slots.temperature[slot], slots.top_k[slot], slots.top_p[slot] = talker
        slots.predictor_temperature[slot], slots.predictor_top_p[slot] = predictor[0], predictor[2]
        slots.predictor_top_k[slot] = predictor[1]
        self.top_ks[slot] = (min(talker[1], vocab), min(predictor[1], codebook))
        slots.seeds[slot], slots.frames[slot] = seq.request.seed, 0
        slots.seen[slot] = False
        self.sound.begin(slot, seq.prompt.reference)

    def _advance(self, seqs: list[SpeechSequence]) -> None:
        """One talker row each: the embedding of the frame before."""
        slots = self.decoder.index(seqs)
        self.slots.hidden[slots] = self.decoder.advance(seqs, slots, self.slots.inputs[slots])

    # -- frames --------------------------------------------------------------------------------

    def _make_frames(self, seqs: list[SpeechSequence]) -> None:
        """The next frame of each, or the reason of its end; a frame's codes wait for the codec."""
        if not seqs:
            return
        slots = self.decoder.index(seqs)
        keys = draw_keys(
            self.slots.seeds[slots], self.slots.frames[slots], self.talker.config.num_code_groups
        )
        first = self._first_codes(slots, keys[:, 0], max(self.top_ks[s.slot][0] for s in seqs))
        is_end = (first == self.talker.config.codec.eos).tolist()
        for seq, end in zip(seqs, is_end, strict=True):
            seq.reason = EndReason.STOP if end else None
        going = [row for row, end in enumerate(is_end) if not end]
        if not going:
            return
        if len(going) < len(seqs):
            keep = torch.tensor(going, device=slots.device)
            slots, keys, first = slots[keep], keys[keep], first[keep]
        live = [seqs[row] for row in going]
        frames = self._rest_of_frames(live, slots, first, keys)
        for seq, frame in zip(live, frames, strict=True):
            seq.reason = self._take_frame(seq, frame)

    def _first_codes(self, slots: Tensor, keys: Tensor, max_top_k: int) -> Tensor:
        logits = self.talker.logits(self.slots.hidden[slots])
        logits = penalise(logits, self.slots.seen[slots], self.defaults.repetition_penalty)
        is_early = self.slots.frames[slots] < MIN_FRAMES
        banned = self.is_banned | (self.is_eos & is_early[:, None])
        settings = self.slots.talker_settings(slots, max_top_k)
        first = self.choose(logits.masked_fill(banned, -torch.inf), keys, settings)
        self.slots.seen[slots, first] = True
        return first

    def _rest_of_frames(
        self, seqs: list[SpeechSequence], slots: Tensor, first: Tensor, keys: Tensor
    ) -> list[list[int]]:
        settings = self.slots.predictor_settings(
            slots, max(self.top_ks[seq.slot][1] for seq in seqs)
        )
        rest = self.predict(
            self.slots.hidden[slots],
            self.talker.embed_codec(first),
            lambda logits, group: self.choose(logits, keys[:, group], settings),
        )
        codes = torch.cat([first[:, None], rest], 1)
        self.slots.inputs[slots] = self.talker.embed_frames(codes) + self._text_side(seqs)
        self.slots.frames[slots] += 1
        frames: list[list[int]] = codes.tolist()
        return frames

    def _text_side(self, seqs: list[SpeechSequence]) -> Tensor:
        """What each request's text adds to its next talker row: mostly padding."""
        if all(seq.trailing is None for seq in seqs):
            return self.pad
        rows = [
            seq.trailing[seq.num_frames]
            if seq.trailing is not None and seq.num_frames < len(seq.trailing)
            else self.pad[0]
            for seq in seqs
        ]
        return torch.stack(rows)

    def _take_frame(self, seq: SpeechSequence, frame: list[int]) -> EndReason | None:
        seq.waiting_codes.append(frame)
        return super()._take_frame(seq, frame)


def resolve(sampling: Sampling, temperature: float, top_k: int, top_p: float) -> RowSetting:
    """A request's settings over the checkpoint's; top_k 0 becomes 'all'."""
    heat = temperature if sampling.temperature is None else sampling.temperature
    chosen = top_k if sampling.top_k is None else sampling.top_k
    return (
        heat if heat >= MIN_TEMPERATURE else 0.0,
        chosen if chosen > 0 else 1 << 31,
        top_p if sampling.top_p is None else sampling.top_p,
    )


def embed_prompt(talker: Talker, prompt: Prompt) -> tuple[Tensor, Tensor | None]:
    """Prompt → rows [T, D] and the text side of the frames to come [N, D], if any."""
    device = talker.device
    rows = talker.embed_text(torch.tensor([row.text_id for row in prompt.rows], device=device))
    codec_ids = torch.tensor([row.codec_id for row in prompt.rows], device=device)
    has_codec = codec_ids != NONE
    rows[has_codec] += talker.embed_codec(codec_ids[has_codec])
    if prompt.voice is not None and prompt.vector_row is not None:
        vector = torch.tensor(prompt.voice.speaker_vector)  # a copy: it may be read-only
        rows[prompt.vector_row] += vector.to(device=device, dtype=rows.dtype)
    if prompt.reference is not None and prompt.reference_row is not None:
        codes = torch.from_numpy(prompt.reference.astype(np.int64)).to(device)
        start = prompt.reference_row
        rows[start : start + len(codes)] += talker.embed_frames(codes)
    if not prompt.trailing:
        return rows, None
    return rows, talker.embed_text(torch.tensor(prompt.trailing, device=device))
