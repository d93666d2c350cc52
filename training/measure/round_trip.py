"""Text → Pocket-TTS → Pocket-ASR → text, over HTTP, with a real server.

Nine speakers say the same held-out sentences, greedily and sampled; their sound is also heard as
MP3. Sentences of its words are heard by another recogniser too.
"""

from collections.abc import Sequence
from pathlib import Path

from qwen3_audio.bench.own_server import run_own_server
from qwen3_audio.errors import StartError
from training.measure.asking import Client, Spoken, named
from training.measure.figures import count_ends, ends_of, pooled_wer, words_of
from training.measure.plan import Json, Plan
from training.measure.sound import to_mp3
from training.run import say
from training.tts.evaluate import draw_sentences
from training.tts.voices import VOICES

_FEWER = 3  # sampled speech and the judge hear a third of the sentences
_SEED, _JUDGE_SEED = 1, 2


def measure_round_trip(plan: Plan) -> Json:
    """All nine speakers, by the same server that listens."""
    texts = draw_sentences(plan.num_sentences, seed=_SEED)
    with run_own_server(plan.server_arguments) as server, Client(server.address) as client:
        result = measure_speakers(client, texts, plan.part_of(_FEWER))
    return result | {"where": server.where}


def measure_speakers(client: Client, texts: Sequence[str], num_sampled: int) -> Json:
    """Every speaker greedily with all texts, as MP3 too, and sampled with some of them."""
    rows: dict[str, Json] = {}
    for voice in VOICES:
        greedy = client.speak_all(named(texts, voice.name, is_greedy=True))
        sampled = client.speak_all(named(texts[:num_sampled], voice.name, is_greedy=False))
        mp3 = [to_mp3(one.wav) for one in greedy]
        rows[voice.name] = row = {
            "greedy": heard_row(client, greedy),
            "sampled": heard_row(client, sampled),
            "mp3": words_of(texts, client.hear_all(mp3, "clip.mp3")),
        }
        say(f"  {voice.name}: " + "  ".join(f"{way} {row[way]['wer']:.3f}" for way in row))
    return {
        "speakers": rows,
        "wer": {way: pooled_wer(row[way] for row in rows.values()) for way in rows["ryan"]},
        "ends": {
            way: count_ends(row[way] for row in rows.values()) for way in ("greedy", "sampled")
        },
    }


def heard_row(client: Client, spoken: Sequence[Spoken]) -> Json:
    heard = client.hear_all([one.wav for one in spoken])
    return ends_of(spoken) | words_of([one.text for one in spoken], heard)


def measure_judged(plan: Plan) -> Json | None:
    """Sentences of the other recogniser's words, heard by it and by ours; None without one."""
    if plan.judge is None:
        say("  not run: name another recogniser with --judge")
        return None
    if plan.judge_words is None:
        raise StartError("--judge needs --judge-words, a file with the words that it knows")
    words = read_words(plan.judge_words)
    texts = draw_sentences(plan.part_of(_FEWER), seed=_JUDGE_SEED, words=words)
    rows: dict[str, Json] = {}
    with (
        run_own_server(["--model-path", str(plan.judge)]) as their_server,
        Client(their_server.address) as judge,
        run_own_server(plan.server_arguments) as server,
        Client(server.address) as client,
    ):
        for voice in VOICES:
            spoken = client.speak_all(named(texts, voice.name, is_greedy=True))
            rows[voice.name] = row = heard_row(judge, spoken)
            row["own_wer"] = heard_row(client, spoken)["wer"]
            say(f"  {voice.name}: {row['wer']:.3f}, by our own {row['own_wer']:.3f}")
    return {"words": len(words), "speakers": rows, "wer": pooled_wer(rows.values())}


def read_words(path: Path) -> frozenset[str]:
    try:
        return frozenset(path.read_text(encoding="utf-8").split())
    except OSError as error:
        raise StartError(f"Can't read --judge-words {path}: {error.strerror}") from None
