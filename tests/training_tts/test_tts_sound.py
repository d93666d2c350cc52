import numpy as np
import pytest
from made_lexicon import made_up_unit

from training.tts.features import (
    FRAME,
    HOP,
    NUM_BANDS,
    RATE_HZ,
    SILENCE,
    SUBFRAMES,
    Array,
    analyse,
    lay_on_grid,
)
from training.tts.lexicon import Lexicon, speaker_point
from training.tts.quantiser import NUM_CODES, SPEAKER_GROUP, UNUSED
from training.tts.speaker import nearest_voice, pitch_of
from training.tts.synthesis import PATTERN, noise, pulses, synthesise
from training.tts.voices import VOICES, VOICES_BY_NAME, Voice

pytestmark = pytest.mark.slow  # of the training, not of the product


def vowel(num_frames: int = 8) -> Array:
    features = np.full((num_frames * SUBFRAMES, NUM_BANDS + 2), -40.0, np.float32)
    features[:, 3:12], features[:, NUM_BANDS:] = -18.0, 20.0
    return features


def buzz(pitch_hz: int, num_samples: int = RATE_HZ) -> Array:
    samples = np.zeros(num_samples, np.float32)
    samples[:: RATE_HZ // pitch_hz] = 0.8
    return samples


@pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.name)
def test_every_voice_speaks_at_its_own_pitch(voice: Voice) -> None:
    assert pitch_of(synthesise(vowel(), voice)) == pytest.approx(voice.pitch_hz, rel=0.03)


def test_a_unit_sounds_the_same_wherever_it_stands() -> None:
    draw = np.random.default_rng(1)
    first, second = made_up_unit(draw, 3), made_up_unit(draw, 4)
    for voice in VOICES:
        alone = synthesise(second, voice)
        behind = synthesise(np.concatenate([first, second]), voice)[3 * FRAME :]
        assert np.abs(alone - behind).max() < 1e-3 * np.abs(alone).max()


def test_long_sound_made_in_pieces_has_no_seam() -> None:
    unit = made_up_unit(np.random.default_rng(2), 4)
    long = synthesise(np.tile(unit, (80, 1)), VOICES[0]).reshape(80, -1)
    middle = long[:, FRAME:-FRAME]  # a loud beginning rings a little into the end before it
    assert np.abs(middle - middle[0]).max() < 1e-3 * np.abs(long).max()


def test_silence_is_digital_silence() -> None:
    assert np.abs(synthesise(np.tile(SILENCE, (40, 1)), VOICES[0])).max() < 1e-6


@pytest.mark.parametrize("period", sorted({voice.period for voice in VOICES}))
def test_sources_repeat_within_half_a_frame(period: int) -> None:
    assert FRAME % PATTERN == 0 and PATTERN % period == 0
    pattern = pulses(period)
    assert np.allclose(pattern, np.roll(pattern, period), atol=1e-4 * np.abs(pattern).max())
    assert pattern.std() == pytest.approx(noise().std(), rel=0.01)


def test_a_brighter_voice_has_more_high_frequencies() -> None:
    def center(name: str) -> float:
        power = np.abs(np.fft.rfft(synthesise(vowel(), VOICES_BY_NAME[name]))) ** 2
        return float((power * np.arange(len(power))).sum() / power.sum())

    assert center("uncle_fu") < center("ryan") < center("eric")


def test_analysis_tells_voiced_from_unvoiced_and_finds_the_loud_band() -> None:
    voiced = analyse(buzz(120))
    hiss = analyse(np.random.default_rng(0).normal(0, 0.1, RATE_HZ).astype(np.float32))
    assert voiced[20:80, NUM_BANDS].mean() > 18 > 5 > hiss[20:80, NUM_BANDS].mean()


def test_words_are_trimmed_levelled_and_whole_frames_long() -> None:
    silence = np.zeros(RATE_HZ // 2, np.float32)
    said = np.concatenate([silence, buzz(120, RATE_HZ // 3), silence])
    for loudness in (0.3, 1.0):
        unit = lay_on_grid(analyse(said * loudness))
        assert len(unit) % SUBFRAMES == 0
        assert len(unit) * HOP == pytest.approx(RATE_HZ / 3, abs=FRAME)
        assert unit[:, :NUM_BANDS].max() == pytest.approx(-17, abs=3)
        assert np.array_equal(unit[-1], SILENCE)


def test_fast_units_are_shorter() -> None:
    features = analyse(buzz(120))
    assert len(lay_on_grid(features, tempo=1.35)) < 0.8 * len(lay_on_grid(features))


def test_codes_give_back_features_and_themselves(lexicon: Lexicon) -> None:
    quantiser = lexicon.quantiser
    features = quantiser.decode(lexicon.codes)
    assert np.abs(features - lexicon.features)[:, :NUM_BANDS].mean() < 1.5
    again = quantiser.encode(quantiser.decode(lexicon.codes))
    assert (again[:, 0] == lexicon.codes[:, 0]).mean() > 0.9


def test_the_second_group_says_who_speaks_and_nothing_else(lexicon: Lexicon) -> None:
    table = lexicon.quantiser.tables[SPEAKER_GROUP]
    assert (lexicon.codes[:, SPEAKER_GROUP] == 0).all()
    assert len(np.unique(table[: len(VOICES)], axis=0)) == len(VOICES)
    assert (table[len(VOICES) : NUM_CODES, -4:] == UNUSED).all()
    assert speaker_point(VOICES[0]) == pytest.approx(table[0, -4:].tolist())


@pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.name)
def test_a_reference_like_a_voice_is_answered_by_that_voice(voice: Voice) -> None:
    assert nearest_voice(voice.pitch_hz, voice.warp) is voice
