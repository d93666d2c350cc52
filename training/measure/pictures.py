"""Pictures of what was spoken and of the training, small enough to be committed."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from qwen3_audio.bench.own_server import run_own_server
from qwen3_audio.types import SPEECH_RATE_HZ, Pcm
from training.measure.asking import Client, cloned, named
from training.measure.clones import espeak_reference
from training.measure.plan import Json, Plan
from training.measure.sound import samples_of
from training.run import draw_curves, say

MAX_BYTES = 150_000
SPEAKERS = ("uncle_fu", "dylan", "vivian", "sohee")
TEXT = "The quick brown fox jumps over the lazy dog."
REFERENCE_TEXT = "Good morning, the little red boat is in the harbor."
_WINDOW, _HOP = 960, 240  # samples: 40 and 10 ms
_FLOOR_DB, _STEP_DB = -66, 3  # few levels make small files
_HIGHEST_HZ = 8000
_NUM_COLOURS = 48
_SHARES = ("wer", "exact", "first_wrong", "others_wrong")  # drawn apart from the losses
_NO_CURVES = ("stage", "step", "active_s", "minutes", "clips", "norm", "gradient", "loss")


def draw_pictures(plan: Plan) -> Json:
    home = plan.out / "pocket"
    home.mkdir(parents=True, exist_ok=True)
    made = [*draw_training(plan.curves, home)]
    if not plan.curves:
        say("  no curves of the training: name its work folders with --curves")
    with (
        run_own_server(plan.server_arguments) as server,
        Client(server.address) as client,
    ):
        made += draw_speech(client, home)
    for path in made:
        say(f"  {path.name}: {path.stat().st_size / 1000:.0f} kB")
    return {"files": sorted(path.name for path in home.glob("*.png"))}


def draw_speech(client: Client, home: Path) -> Iterator[Path]:
    """One sentence in four voices, and two recordings beside what is spoken like them."""
    sounds = {
        name: samples_of(client.speak(named([TEXT], name, is_greedy=True)[0]).wav)
        for name in SPEAKERS
    }
    yield draw_spectrograms(sounds, home / "speakers.png")
    pairs: dict[str, Pcm] = {}
    for pitch, warp in ((15, 1.0), (90, 1.1)):
        reference = espeak_reference(REFERENCE_TEXT, pitch, warp)
        answer = client.speak(cloned([REFERENCE_TEXT], reference, with_text=False)[0])
        pairs[f"reference: {reference.name}"] = samples_of(reference.wav)
        pairs[f"the clone of {reference.name}"] = samples_of(answer.wav)
    yield draw_spectrograms(pairs, home / "clones.png")


def draw_spectrograms(sounds: Mapping[str, Pcm], picture: Path) -> Path:
    """Log-magnitudes over time, one panel for each sound; a file of at most MAX_BYTES."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    longest_s = max(len(samples) for samples in sounds.values()) / SPEECH_RATE_HZ
    figure, panels = pyplot.subplots(
        len(sounds), 1, figsize=(7, 1.7 * len(sounds)), squeeze=False, layout="constrained"
    )
    for panel, (name, samples) in zip(panels[:, 0], sounds.items(), strict=True):
        box = (0, max(len(samples), _WINDOW) / SPEECH_RATE_HZ, 0, _HIGHEST_HZ / 1000)
        panel.imshow(
            magnitudes_db(samples), extent=box, aspect="auto", origin="lower", cmap="magma",
            vmin=_FLOOR_DB, vmax=0, interpolation="nearest",
        )  # fmt: skip
        panel.set(xlim=(0, longest_s or 1), ylabel="kHz")
        panel.set_title(name, fontsize=9, loc="left")
    panels[-1, 0].set_xlabel("seconds")
    for dpi in (110, 90, 70, 50, 35):
        figure.savefig(picture, dpi=dpi)
        _save_colours(picture)
        if picture.stat().st_size <= MAX_BYTES:
            break
    pyplot.close(figure)
    return picture


def _save_colours(picture: Path) -> None:
    """A palette instead of full colours: a third of the bytes."""
    from PIL import Image

    with Image.open(picture) as drawn:
        fewer = drawn.convert("RGB").quantize(_NUM_COLOURS)
    fewer.save(picture, optimize=True)


def magnitudes_db(samples: Pcm) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """[frequencies, frames] under the loudest, in steps."""
    padded = np.pad(samples, (0, max(_WINDOW - len(samples), 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    spectrum = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW)))
    kept = spectrum[:, : _HIGHEST_HZ * _WINDOW // SPEECH_RATE_HZ + 1].T
    db = 20 * np.log10(np.maximum(kept, 1e-9) / max(kept.max(initial=0), 1e-9))
    stepped: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    stepped = (np.round(np.maximum(db, _FLOOR_DB) / _STEP_DB) * _STEP_DB).astype(np.float32)
    return stepped


def draw_training(folders: tuple[Path, ...], home: Path) -> Iterator[Path]:
    """The curves of every *.jsonl that a training has left in its work folder."""
    for folder in folders:
        logs = sorted(folder.glob("*.jsonl"))
        if not logs:
            raise FileNotFoundError(f"{folder} has no curves: no training has left *.jsonl there")
        for log in logs:
            yield draw_log(log, home)


def draw_log(log: Path, home: Path) -> Path:
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    is_speech = any("stage" in row for row in rows)
    picture = home / f"{'tts' if is_speech else 'asr'}-{log.stem}.png"
    columns = dict.fromkeys(key for row in rows for key in row if key not in _NO_CURVES)
    losses = [name for name in columns if name not in _SHARES]
    shares = [name for name in columns if name in _SHARES]
    panels = [names for names in (losses or ["loss"], shares) if names]
    draw_curves(rows, picture, x="active_s" if is_speech else "minutes", columns=panels)
    return picture
