"""What a simulated player hears, from when which sound arrived."""

from hypothesis import given
from hypothesis import strategies as st

from qwen3_audio.bench.player import Playback, play
from qwen3_audio.bench.sample import Arrival


def hear(*arrivals: tuple[float, float], planned_s: float = 0.0) -> Playback:
    return play([Arrival(at_s, audio_s) for at_s, audio_s in arrivals], planned_s)


def test_sound_that_comes_in_time_never_runs_dry() -> None:
    heard = hear((1.0, 0.08), (1.05, 0.16), (1.24, 0.32), planned_s=0.5)
    assert heard == Playback(0.5, 0, 0.0, heard.gaps_s)
    assert [round(gap, 3) for gap in heard.gaps_s] == [0.05, 0.19]
    assert heard.is_gap_free(0)


def test_a_player_waits_for_80_ms_before_it_begins() -> None:
    assert hear((1.0, 0.04), (1.5, 0.04), (1.55, 0.08)).first_sound_s == 1.5
    assert hear((1.0, 0.04)).first_sound_s == 1.0  # that is all there is


def test_every_late_piece_is_an_underrun_and_its_silence_adds_up() -> None:
    heard = hear((0.0, 0.1), (0.3, 0.1), (0.35, 0.1), (0.6, 0.1))
    assert heard.num_underruns == 2
    assert round(heard.stalled_s, 6) == 0.3  # 0.1 to 0.3, then 0.5 to 0.6
    assert not heard.is_gap_free(0.29)
    assert heard.is_gap_free(0.3)


PIECES = st.lists(st.tuples(st.floats(0, 2), st.floats(0.08, 1)), min_size=1, max_size=20)


@given(PIECES)
def test_beginning_later_by_the_silence_would_have_avoided_it(
    pieces: list[tuple[float, float]],
) -> None:
    at_s, arrivals = 0.0, []
    for pause_s, audio_s in pieces:
        at_s += pause_s
        arrivals.append(Arrival(at_s, audio_s))
    heard = play(arrivals, 0.0)
    begin_s, spoken_s = arrivals[0].at_s + heard.stalled_s, 0.0
    for arrival in arrivals:
        assert arrival.at_s <= begin_s + spoken_s + 1e-4
        spoken_s += arrival.audio_s
    assert (heard.num_underruns == 0) == (heard.stalled_s == 0)
