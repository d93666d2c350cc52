"""The recognition runner of a GPU: the device makes a token while the host reads the one before.

One step: pieces that join are heard and their prompts read together, one graph makes a token of
everybody, and only then the results of the step before are looked at. An end is known a step late:
what its slot still computed is never read. Letters in shapes: R rows of all prompts, H width.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwen3_audio.engine.asr import AsrSequence, ListeningRunner
from qwen3_audio.engine.asr_prompt import AsrPrompt, build_prompt
from qwen3_audio.engine.engine import Ending
from qwen3_audio.engine.gpu.graphs import Lane, Late
from qwen3_audio.engine.gpu.hearing import GpuHearing
from qwen3_audio.engine.gpu.prefill import PackedPrefill, Part
from qwen3_audio.engine.gpu.tokens import TokenGraphs, count_candidates
from qwen3_audio.engine.kv_cache import PageBook
from qwen3_audio.engine.paged_decoder import PagedDecoder
from qwen3_audio.engine.scheduler import Scheduler
from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.kernels.fused.ops import FusedOps
from qwen3_audio.models.asr import AudioEncoder, num_audio_tokens
from qwen3_audio.models.linear import Linear
from qwen3_audio.models.mel import LISTEN_HOP


@dataclass(frozen=True, slots=True)
class Launch:
    """A token that the device has been asked for."""

    seqs: list[AsrSequence]
    late: Late


class GpuAsrRunner(ListeningRunner):
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
        lane: Lane,
        ops: FusedOps,
    ) -> None:
        """The pool of `decoder` has a slot more than the scheduler, for rows that fill up."""
        super().__init__(
            encoder,
            embedding,
            head,
            tokenizer=tokenizer,
            eos_ids=eos_ids,
            decoder=decoder,
            scheduler=scheduler,
        )
        self._lane, stack, pool = lane, decoder.stack, decoder.pool
        self._hearing = GpuHearing(lane, encoder)
        self._prefill_graphs = PackedPrefill(lane, ops, stack, pool, padding=scheduler.num_slots)
        self._tokens = TokenGraphs(
            lane,
            ops,
            stack,
            pool,
            embedding=embedding,
            head=head,
            eos_ids=eos_ids,
            num_slots=scheduler.num_slots,
        )
        self._launches: deque[Launch] = deque()  # not yet read

    @torch.inference_mode()
    def prepare(self) -> None:
        """Capture everything that a step needs, so that nobody waits for it later."""
        with self._lane.active():
            self._tokens.prepare()
            self._prefill_graphs.prepare(self.scheduler.max_prefill_tokens)
            self._hearing.prepare()

    @property
    def has_work(self) -> bool:
        going = any(_may_go(seq) for seq in self.scheduler.running.values())
        return going or bool(self._launches) or self.scheduler.may_start

    @torch.inference_mode()
    def step(self) -> list[Ending]:
        plan = self.scheduler.plan()
        going = [seq for seq in plan.decode + plan.prefill if _may_go(seq)]
        with self._lane.active():
            if plan.prefill:
                self._prefill(plan.prefill)
            if going:
                self._launch(going)
        endings: list[Ending] = []
        while len(self._launches) > bool(going):
            endings += self._read(self._launches.popleft())
        return endings

    def restart(self) -> None:
        """Nobody runs: what is on its way belongs to requests that have failed."""
        self._launches.clear()

    def _prefill(self, seqs: list[AsrSequence]) -> None:
        """All rows of each prompt but the last token, which is left to its first step."""
        prompts = [
            build_prompt(
                self.tokenizer,
                num_audio_tokens(len(seq.samples) // LISTEN_HOP),
                context=seq.request.context,
                language=seq.language,
            )
            for seq in seqs
        ]
        starts = np.cumsum([0, *(len(prompt.ids) for prompt in prompts)])
        self._tokens.admit(seqs, prompts)
        rows = self._embed_prompts(seqs, prompts, starts)
        self._prefill_graphs.run(
            rows,
            [
                Part(seq.slot, int(start), len(prompt.ids) - 1)
                for seq, start, prompt in zip(seqs, starts[:-1], prompts, strict=True)
            ],
        )
        for seq, prompt in zip(seqs, prompts, strict=True):
            seq.num_positions = len(prompt.ids) - 1

    def _embed_prompts(
        self, seqs: list[AsrSequence], prompts: list[AsrPrompt], starts: NDArray[np.int64]
    ) -> Tensor:
        """Rows of all prompts [R, H], with the sound in place of its padding."""
        ids = np.concatenate([np.array(prompt.ids, np.int64) for prompt in prompts])
        rows = self._embed(self._lane.upload(ids))
        for heard in self._hearing.hear([seq.samples for seq in seqs]):
            sources = self._lane.upload(np.concatenate(heard.rows))
            targets = [
                starts[clip] + prompts[clip].audio_start + np.arange(len(own))
                for clip, own in zip(heard.clips, heard.rows, strict=True)
            ]
            sound = heard.embeddings.index_select(0, sources).to(rows.dtype)
            rows.index_copy_(0, self._lane.upload(np.concatenate(targets)), sound)
        return rows

    def _launch(self, seqs: list[AsrSequence]) -> None:
        for seq in seqs:
            seq.num_positions += 1
            seq.num_launched += 1
        late = self._tokens.launch(
            [seq.slot for seq in seqs],
            num_pages=PageBook.pages_for(max(seq.num_positions for seq in seqs)),
            num_candidates=max(map(count_candidates, seqs)),
        )
        self._launches.append(Launch(seqs, late))

    def _read(self, launch: Launch) -> list[Ending]:
        """Results of those who still want them: neither ended nor gone since they were asked."""
        running, endings = self.scheduler.running, list[Ending]()
        rows: list[list[float]] = launch.late.read().tolist()
        for seq, (token, logprob) in zip(launch.seqs, rows, strict=True):
            if running.get(seq.seq_id) is seq:
                endings += self._take(seq, int(token), logprob)
        return endings


def _may_go(seq: AsrSequence) -> bool:
    return seq.num_launched < seq.max_tokens
