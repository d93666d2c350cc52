"""The engine alone, without HTTP, on a random checkpoint: how fast it speaks or listens.

Lengths are forced (60 frames, 35 tokens) and the sampler is on, as for a request.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import work
from benchmarks.checkpoints import SIZES, write_checkpoints
from benchmarks.report import best_and_median, counted, format_table, say
from qwen3_audio.assembly import IDLE_THREADS, load_backend
from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.settings import Settings, suggest
from qwen3_audio.types import (
    ModelKind,
    Sampling,
    SpeechEnd,
    SpeechRequest,
    Transcript,
    TranscriptionRequest,
)


class OurArm:
    """One checkpoint behind the backend that also serves."""

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        suggest(IDLE_THREADS)  # as the server does, before torch is there
        self.set_num_threads(threads)
        checkpoint = open_checkpoint(folder)
        settings = Settings.from_env({"QWEN_TTS_DTYPE": dtype, "QWEN_TTS_DEVICE": "cpu"})
        self.kind = checkpoint.kind
        self.backend = load_backend([checkpoint], settings)
        self.loop = asyncio.new_event_loop()

    @staticmethod
    def set_num_threads(threads: int) -> None:
        import torch

        torch.set_num_threads(threads)

    def run(self, seed: int) -> work.Done:
        runs = {ModelKind.ASR: self._listen, ModelKind.BASE: self._clone}
        return self.loop.run_until_complete(runs.get(self.kind, self._speak)(seed))

    def run_together(self, seed: int, streams: int) -> work.Done:
        """Several at once; the audio of all together."""

        async def gather() -> list[work.Done]:
            return await asyncio.gather(*(self._speak(seed + i) for i in range(streams)))

        done = self.loop.run_until_complete(gather())
        return work.Done(work.NUM_FRAMES, sum(one.audio_s for one in done), done[0].first_s)

    def close(self) -> None:
        self.loop.run_until_complete(self.backend.close())
        self.loop.close()

    async def _speak(self, seed: int) -> work.Done:
        speaker = {"speaker": "ryan"} if self.kind is ModelKind.CUSTOM_VOICE else {}
        return await self._hear_out(SpeechRequest(self.kind, work.TEXT, seed, **_FORCED, **speaker))

    async def _clone(self, seed: int) -> work.Done:
        """From the reference's sound on, as a request with `audio_sample` would."""
        begin_s = time.perf_counter()
        prompt = await self.backend.make_voice_prompt(work.reference(), work.REFERENCE_TEXT)
        request = SpeechRequest(self.kind, work.TEXT, seed, voice_prompt=prompt, **_FORCED)
        return await self._hear_out(request, begin_s)

    async def _hear_out(self, request: SpeechRequest, begin_s: float | None = None) -> work.Done:
        begin_s = begin_s or time.perf_counter()
        first_s, num_frames = None, 0
        async for item in self.backend.speak(request):
            if isinstance(item, SpeechEnd):
                num_frames = item.num_frames
            elif first_s is None:
                first_s = time.perf_counter() - begin_s
        done = work.Done(num_frames, num_frames * work.FRAME_S, first_s)
        work.check_length(done, work.NUM_FRAMES)
        return done

    async def _listen(self, seed: int) -> work.Done:
        """Sampled, because greedy random weights repeat themselves, which a guard ends."""
        request = TranscriptionRequest(
            work.clip(),
            seed=seed,
            sampling=Sampling(temperature=1.0),
            max_new_tokens=work.NUM_TOKENS,
        )
        num_tokens = 0
        async for item in self.backend.transcribe(request):
            if isinstance(item, Transcript):
                num_tokens = item.num_output_tokens
        done = work.Done(num_tokens, work.CLIP_S)
        work.check_length(done, work.NUM_TOKENS)
        return done


_FORCED = {"language": "English", "max_frames": work.NUM_FRAMES}


def measure(run: Callable[[int], work.Done], what: str, repeats: int) -> list[object]:
    """A row: best and median of the real-time factor and of the first sound, after one to warm."""
    run(0)
    rows = [work.timed(run, seed) for seed in counted(range(1, repeats + 1), what, repeats)]
    factors = best_and_median([row["wall_s"] / row["audio_s"] for row in rows])
    firsts = [row["first_s"] for row in rows if row["first_s"] is not None]
    first_ms = round(1000 * best_and_median(firsts)["median"]) if firsts else "-"
    return [what, factors["best"], factors["median"], first_ms, rows[-1]["load_average"]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--kind", choices=work.KINDS, default="custom_voice")
    parser.add_argument("--folder", type=Path, help="a checkpoint; default: made for this run")
    parser.add_argument("--size", choices=SIZES, default="0.6b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streams", type=int, default=1, help="speech requests at once")
    parser.add_argument("--arm", action="store_true", help="answer orders on stdin (for peers)")
    given = parser.parse_args(arguments)
    if given.streams > 1 and given.kind != "custom_voice":
        parser.error("--streams goes with custom_voice")
    with tempfile.TemporaryDirectory(prefix="qwen3-audio-bench-") as home:
        folder = given.folder
        if folder is None:
            say("Making a random checkpoint")
            folder = write_checkpoints(Path(home), [given.kind], SIZES[given.size])[0]
        arm = OurArm(folder, given.dtype, given.threads)
        if given.arm:
            work.answer_orders(arm.run, arm.set_num_threads)
        else:
            what = f"{given.kind} {given.dtype}, {given.streams} at once, {given.threads} threads"
            run = partial(arm.run_together, streams=given.streams) if given.streams > 1 else arm.run
            head = ["engine alone", "RTF best", "RTF median", "first sound ms", "load"]
            print(format_table(head, [measure(run, what, given.repeats)]))
        arm.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
