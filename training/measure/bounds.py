"""Every line that the pocket models must show: what it asks, what was measured, whether it held."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from training.measure.plan import Json

Verdict = tuple[str, bool]  # what was measured, and whether the bound is kept
NOT_MEASURED = "not measured"

MAX_WER = {"greedy": 0.08, "mp3": 0.12}
MAX_JUDGED_WER, MAX_CLONED_WER = 0.25, 0.20
MIN_ENDED = 0.995
MAX_SPEECH_RTF, MAX_LISTENING_RTF = 0.15, 0.10
MAX_START_S = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table; nothing is kept or missed that was not measured."""

    what: str
    bound: str
    measured: str
    is_kept: bool | None

    @property
    def verdict(self) -> str:
        return {True: "kept", False: "MISSED", None: "-"}[self.is_kept]


@dataclass(frozen=True, slots=True)
class _Bound:
    part: str
    what: str
    bound: str
    read: Callable[[Json], Verdict]

    def judge(self, parts: Mapping[str, Json]) -> Line:
        try:
            measured, is_kept = self.read(parts[self.part])
        except KeyError:  # this part has not been measured
            return Line(self.what, self.bound, NOT_MEASURED, None)
        return Line(self.what, self.bound, measured, is_kept)


def judge(parts: Mapping[str, Json]) -> list[Line]:
    """All lines, over the figures of the parts that there are."""
    return [bound.judge(parts) for bound in _BOUNDS]


def _same(part: Json) -> Verdict:
    return f"{part['same']} of {part['of']}", part["same"] == part["of"] > 0


def _condition(name: str, most: float) -> Callable[[Json], Verdict]:
    def read(part: Json) -> Verdict:
        row = part["speech"][name]
        return f"{percent(row['wer'])} of {row['clips']} clips", row["wer"] <= most

    return read


def _empty(part: Json) -> Verdict:
    shown = (f"{name} {percent(row['empty'])}" for name, row in part["silent"].items())
    return ", ".join(shown), all(row["empty"] == 1 for row in part["silent"].values())


def _speakers(way: str) -> Callable[[Json], Verdict]:
    def read(part: Json) -> Verdict:
        rows = {name: row[way] for name, row in part["speakers"].items()}
        return _worst(rows, part["wer"][way], MAX_WER[way])

    return read


def _judged(part: Json) -> Verdict:
    return _worst(part["speakers"], part["wer"], MAX_JUDGED_WER)


def _worst(rows: Mapping[str, Json], together: float, most: float) -> Verdict:
    name = max(rows, key=lambda name: float(rows[name]["wer"]))
    worst = float(rows[name]["wer"])
    return f"worst {percent(worst)} ({name}), all {percent(together)}", worst <= most


def _cloned(part: Json) -> Verdict:
    ways = {way.replace("_", " "): row["wer"] for way, row in part.items()}
    shown = ", ".join(f"{way} {percent(wer)}" for way, wer in ways.items())
    return shown, max(ways.values()) <= MAX_CLONED_WER


def _ended(part: Json) -> Verdict:
    return _ends(part["ends"])


def _clones_ended(part: Json) -> Verdict:
    return _ends({way.replace("_", " "): row["ends"] for way, row in part.items()})


def _ends(rows: Mapping[str, Json]) -> Verdict:
    shares = {way: row["ended"] / row["texts"] for way, row in rows.items()}
    shown = ", ".join(f"{way} {percent(s)} of {rows[way]['texts']}" for way, s in shares.items())
    return shown, min(shares.values()) >= MIN_ENDED


def _factor(what: str, most: float) -> Callable[[Json], Verdict]:
    def read(part: Json) -> Verdict:
        row, load = part["one_core"][what], part["one_core"]["load_average"]
        processor = "" if row["processor"] is None else f" (processor {row['processor']:.3f})"
        return f"{row['rtf']:.3f}{processor}, load average {load}", row["rtf"] <= most

    return read


def _start(part: Json) -> Verdict:
    row = part["start"]
    uv = "" if row["uv_s"] is None else f", uv {row['uv_s']} s apart"
    measured = (
        f"{row['first']['spoken_s']} s, again {row['again']['spoken_s']} s"
        f" (importing torch {row['import_torch_s']} s of it{uv})"
    )
    return measured, row["first"]["spoken_s"] < MAX_START_S


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _conditions() -> Iterable[_Bound]:
    yield _listening("500 held-out utterances, trained voices", "trained_voices", 0.03)
    for name in ("m6", "f3", "Annie"):
        yield _listening(f"the variant {name}, never trained on", f"never_trained_{name}", 0.06)
    yield _listening("white noise, 10 dB SNR", "white_noise_10_db", 0.06)
    yield _listening("pink noise, 10 dB SNR", "pink_noise_10_db", 0.06)


def _listening(what: str, name: str, most: float) -> _Bound:
    bound = f"WER ≤ {percent(most)}"
    return _Bound("listening", f"Pocket-ASR: {what}", bound, _condition(name, most))


_BOUNDS = (
    _Bound("official_speech", "qwen-tts: texts with the same codes, float32", "all", _same),
    _Bound("official_listening", "qwen-asr: clips with the same tokens, float32", "all", _same),
    *_conditions(),
    _Bound("listening", "Pocket-ASR: empty without speech", "100 %", _empty),
    _Bound("round_trip", "Round trip, each speaker", "WER ≤ 8.0 %", _speakers("greedy")),
    _Bound("round_trip", "Round trip through mp3 at 64 kbit/s", "WER ≤ 12.0 %", _speakers("mp3")),
    _Bound("judged", "Heard by another recogniser", "WER ≤ 25.0 %", _judged),
    _Bound("clones", "Round trip of cloned voices", "WER ≤ 20.0 %", _cloned),
    _Bound("round_trip", "Speech that ends by itself", "≥ 99.5 %", _ended),
    _Bound("clones", "Cloned speech that ends by itself", "≥ 99.5 %", _clones_ended),
    _Bound("speed", "From the start to the first speech", "< 10 s", _start),
    _Bound(
        "speed", "Real-time factor of speech, one core", "≤ 0.15", _factor("speech", MAX_SPEECH_RTF)
    ),
    _Bound(
        "speed",
        "Real-time factor of transcription, one core",
        "≤ 0.10",
        _factor("transcription", MAX_LISTENING_RTF),
    ),
)
