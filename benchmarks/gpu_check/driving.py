"""Runners driven by hand, the way the engine's thread does it, so that only they are measured."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch

from benchmarks.gpu_check.attempts import attempt
from benchmarks.gpu_check.part import Part
from qwen3_audio.bench.player import Playback, play
from qwen3_audio.bench.sample import Arrival
from qwen3_audio.checkpoints import Checkpoint
from qwen3_audio.engine.asr import AsrSequence, PieceEnd
from qwen3_audio.engine.asr_prompt import build_prompt
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.engine import Ending, Runner
from qwen3_audio.engine.gpu.graphs import CudaLane, Lane
from qwen3_audio.engine.guards import LoopDetector
from qwen3_audio.engine.loading import ListeningModel, SpeechModel, load_listening, load_speech
from qwen3_audio.engine.local import lay_out
from qwen3_audio.engine.memory import plan_gpu
from qwen3_audio.engine.speech_sound import CodecThreads, SpeechSequence
from qwen3_audio.models.asr import num_audio_tokens
from qwen3_audio.settings import VARIABLES, Settings
from qwen3_audio.types import (
    SPEECH_RATE_HZ,
    Pcm,
    SpeechRequest,
    TranscriptionRequest,
)

GRAPHS = "QWEN_CUDA_GRAPHS"
HOP = 160  # samples of a mel frame
SAMPLER = (1.0, 50, 1.0)  # of recognition: greedy random weights would repeat themselves
_ids = itertools.count()
M = TypeVar("M")


class Lanes:
    """Makes a device's lanes and remembers them."""

    def __init__(self, make: Callable[[], Lane]) -> None:
        self._make = make
        self._made: list[Lane] = []

    def __call__(self) -> Lane:
        self._made.append(self._make())
        return self._made[-1]

    @property
    def num_plain(self) -> int:
        """Steps that could not be captured."""
        return sum(lane.num_plain for lane in self._made if isinstance(lane, CudaLane))


def settings_for(part: Part, dtype: str, num_slots: int, *, graphs: bool = True) -> Settings:
    env = {
        "QWEN_TTS_DEVICE": part.device,
        "QWEN_TTS_DTYPE": dtype,
        "MAX_RUNNING": str(num_slots),
        "XDG_CACHE_HOME": str(part.home / "cache"),
    }
    if GRAPHS in VARIABLES:
        env[GRAPHS] = "1" if graphs else "0"
    return Settings.from_env(env)


def choose_device(part: Part, settings: Settings) -> Device:
    """As a start would; a CPU without kernels, which stands for a GPU when the tool is tried."""
    if part.is_gpu:
        device = Device.choose(settings)
        return device if device.lanes is None else replace(device, lanes=Lanes(device.lanes))
    return replace(plain_cpu(), is_fp8=settings.qwen_tts_dtype == "fp8")


def plain_cpu() -> Device:
    """torch in float32: what everything is compared with."""
    return Device(torch.device("cpu"), torch.float32)


def quiet(what: str, done: int, total: int) -> None:
    """Nobody wants to hear how loading goes."""


def load_somehow(
    part: Part, load: Callable[[Device], M], device: Device, name: str = ""
) -> tuple[M, Device]:
    """With graphs; where that fails it is a check that failed, and plain steps are measured."""
    if device.lanes is None:
        return load(device), device
    with attempt(part, f"{name}loading with graphs"):
        return load(device), device
    part.note(f"{name}the model does not load with graphs: what follows is measured without them")
    device = replace(device, lanes=None)
    return load(device), device


def check_graphs(part: Part, device: Device, name: str = "") -> None:
    """That all steps were captured, those that came up late among them."""
    if isinstance(device.lanes, Lanes):
        num_plain = device.lanes.num_plain
        part.check(
            f"{name}every step is a graph", num_plain == 0, f"{num_plain} could not be captured"
        )


def load_voice(checkpoint: Checkpoint, settings: Settings, device: Device) -> SpeechModel:
    """With memory planned and threads beside the runner as in a server."""
    return load_speech(
        checkpoint,
        settings,
        device,
        quiet,
        codec_threads=CodecThreads.beside(device),
        room_bytes=_plan(checkpoint, device),
    )


def load_ears(checkpoint: Checkpoint, settings: Settings, device: Device) -> ListeningModel:
    return load_listening(checkpoint, settings, device, quiet, room_bytes=_plan(checkpoint, device))


def _plan(checkpoint: Checkpoint, device: Device) -> int | None:
    is_gpu = device.device.type == "cuda"
    return plan_gpu([checkpoint], device).room_bytes if is_gpu else None


class WatchedFrames(LoopDetector):
    """Keeps every frame, and never ends a speech: lengths are forced."""

    def __init__(self, frames_per_s: float) -> None:
        super().__init__(frames_per_s)
        self.frames: list[Sequence[int]] = []

    def is_loop(self, frame: Sequence[int]) -> bool:
        self.frames.append(frame)
        return False


@dataclass(eq=False)
class Spoken:
    """One speech request and what came of it."""

    seq: SpeechSequence
    watched: WatchedFrames
    begin_s: float = 0.0
    arrivals: list[Arrival] = field(default_factory=list)
    pieces: list[Pcm] = field(default_factory=list)

    def hear(self, item: object) -> None:
        if isinstance(item, np.ndarray):
            self.arrivals.append(Arrival(time.perf_counter(), len(item) / SPEECH_RATE_HZ))
            self.pieces.append(item)

    @property
    def codes(self) -> np.ndarray:
        return np.array(self.watched.frames, np.int64)

    @property
    def sound(self) -> Pcm:
        return np.concatenate(self.pieces)

    @property
    def audio_s(self) -> float:
        return sum(arrival.audio_s for arrival in self.arrivals)

    def first_s(self, audio_s: float) -> float:
        """From admission until so much sound was there."""
        heard_s = 0.0
        for arrival in self.arrivals:
            heard_s += arrival.audio_s
            if heard_s >= audio_s - 1e-6:
                return arrival.at_s - self.begin_s
        return self.arrivals[-1].at_s - self.begin_s

    @property
    def playback(self) -> Playback:
        return play(self.arrivals, self.begin_s)


class NeverSilent:
    """In place of the guard that ends long silence."""

    def is_silence(self, samples: Pcm) -> bool:
        return False


def speech(model: SpeechModel, request: SpeechRequest) -> Spoken:
    """A request ready for its runner; guards only watch."""
    watched = WatchedFrames(model.frames_per_s)
    items: list[Spoken] = []
    seq = lay_out(model, request, next(_ids), lambda item: items[0].hear(item))
    guards: dict[str, Any] = {"loop": watched, "silence": NeverSilent()}
    seq = replace(seq, **guards)
    items.append(Spoken(seq, watched))
    return items[0]


@dataclass(eq=False)
class Heard:
    """One recording and what came of it."""

    seq: AsrSequence
    audio_s: float
    begin_s: float = 0.0
    first_s: float = 0.0
    end_s: float = 0.0
    end: PieceEnd | None = None

    def hear(self, item: object) -> None:
        now_s = time.perf_counter()
        self.first_s = self.first_s or now_s
        if isinstance(item, PieceEnd):
            self.end_s, self.end = now_s, item


def recording(model: ListeningModel, samples: Pcm, seed: int, num_tokens: int) -> Heard:
    """A piece ready for its runner, sampled, with its number of tokens forced."""
    prompt = build_prompt(
        model.tokenizer, num_audio_tokens(len(samples) // HOP), context="", language="English"
    )
    items: list[Heard] = []
    seq = AsrSequence(
        seq_id=next(_ids),
        owner=1,
        num_prompt_tokens=len(prompt.ids),
        num_reserved_positions=len(prompt.ids) + num_tokens,
        emit=lambda item: items[0].hear(item),
        request=TranscriptionRequest(samples, language="English", seed=seed),
        index=0,
        samples=samples,
        language="English",
        max_tokens=num_tokens,
        settings=SAMPLER,
    )
    items.append(Heard(seq, len(samples) / 16_000))
    return items[0]


class Turns:
    """The engine's loop on the calling thread."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self._news = runner, threading.Event()
        runner.connect(self._news.set)
        self.num_steps = 0

    def run(
        self,
        works: Sequence[Spoken | Heard],
        follow: Callable[[], Spoken | Heard | None] = lambda: None,
    ) -> None:
        """Until all have ended; `follow` may give another one whenever one ends."""
        try:
            self._run(works, follow)
        except BaseException:
            self._give_up()
            raise

    def _run(
        self, works: Sequence[Spoken | Heard], follow: Callable[[], Spoken | Heard | None]
    ) -> None:
        scheduler = self._runner.scheduler
        for work in works:
            self._admit(work)
        while not scheduler.is_idle:
            if not self._runner.has_work:
                self._news.wait(1.0)
            self._news.clear()
            self.num_steps += 1
            for ending in self._runner.step():
                self._end(ending)
                following = follow()
                if following is not None:
                    self._admit(following)

    def _admit(self, work: Spoken | Heard) -> None:
        work.begin_s = time.perf_counter()
        self._runner.scheduler.add([work.seq], is_admitted=True)

    def _give_up(self) -> None:
        """The runner as the next ones expect it, with nobody in it."""
        scheduler = self._runner.scheduler
        for seq in scheduler.everyone():
            is_running = seq.seq_id in scheduler.running
            scheduler.remove(seq)
            if is_running:
                self._runner.release(seq)
        self._runner.restart()

    def _end(self, ending: Ending) -> None:
        self._runner.scheduler.remove(ending.seq)
        self._runner.release(ending.seq)
        ending.seq.emit(ending.item)
