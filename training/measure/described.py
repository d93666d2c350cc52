"""Do the words of a description change the voice? Pairs that must differ in pitch or length."""

from collections.abc import Sequence

from qwen3_audio.bench.own_server import run_own_server
from training.measure.asking import Client, described
from training.measure.figures import ends_of
from training.measure.plan import Json, Plan
from training.measure.sound import brightness_hz, median, pitch_hz, samples_of
from training.run import say
from training.tts.evaluate import draw_sentences

_SEED = 4
_FEWER = 30  # each description speaks one in thirty of the sentences
# What to compare, and the description that should have less of it before the one with more.
PAIRS = (
    ("pitch_hz", "A deep voice.", "A high voice."),
    ("pitch_hz", "A male voice.", "A female voice."),
    ("pitch_hz", "A low male voice.", "A high female voice."),
    ("sound_s", "A low voice, speaking fast.", "A low voice, speaking slowly."),
    ("sound_s", "A high female voice, speaking quickly.", "A slow high female voice."),
)


def measure_descriptions(plan: Plan) -> Json:
    texts = draw_sentences(plan.part_of(_FEWER), seed=_SEED)
    with run_own_server(plan.server_arguments) as server, Client(server.address) as client:
        return {"pairs": measure_pairs(client, texts)}


def measure_pairs(client: Client, texts: Sequence[str]) -> list[Json]:
    rows: dict[str, Json] = {}
    for description in dict.fromkeys(text for _, *both in PAIRS for text in both):
        spoken = client.speak_all(described(texts, description))
        sounds = [samples_of(one.wav) for one in spoken]
        rows[description] = ends_of(spoken) | {
            "pitch_hz": median([pitch_hz(samples) for samples in sounds]),
            "brightness_hz": median([brightness_hz(samples) for samples in sounds]),
        }
        say(f"  {description} {rows[description]['pitch_hz']} Hz")
    return [
        {"figure": figure, "less": less, "more": more, "of": [rows[less], rows[more]]}
        | {"ratio": _ratio(rows[less][figure], rows[more][figure])}
        for figure, less, more in PAIRS
    ]


def _ratio(less: float | None, more: float | None) -> float | None:
    return round(more / less, 2) if less and more else None
