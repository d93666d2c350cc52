"""The GPU's recognition runner without a GPU, against the CPU's on the same checkpoint."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from listening_runs import Hearing, draw_sound, hearing_of, leave, run
from stand_in import CPU, StandInLane

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.gpu import hearing, prefill
from qwen3_audio.engine.gpu.graphs import round_up
from qwen3_audio.engine.gpu.listening import GpuAsrRunner
from qwen3_audio.engine.gpu.tokens import LEFT, POSITION
from qwen3_audio.engine.loading import ListeningModel, load_listening
from qwen3_audio.kernels.fused.fp8 import Fp8Linear
from qwen3_audio.models.asr import num_audio_tokens
from qwen3_audio.models.mel import LISTEN_HOP
from qwen3_audio.settings import Settings
from qwen3_audio.types import LISTEN_RATE_HZ, EndReason

NUM_SLOTS = 5


def load(folder: Path, device: Device) -> ListeningModel:
    settings = Settings.from_env({"MAX_RUNNING": str(NUM_SLOTS)})
    return load_listening(open_checkpoint(folder), settings, device, lambda *report: None)


@pytest.fixture(scope="module")
def plain(tiny_asr: Path) -> ListeningModel:
    return load(tiny_asr / "tiny-asr", Device(CPU, torch.float32))


@pytest.fixture(scope="module")
def graphs(tiny_asr: Path) -> ListeningModel:
    return load(tiny_asr / "tiny-asr", Device(CPU, torch.float32, lanes=StandInLane))


def pieces(model: ListeningModel) -> list[Hearing]:
    """Shorter than a chunk, several windows, every kind of setting."""
    return [
        hearing_of(model, draw_sound(0.3, 1), max_tokens=9),
        hearing_of(model, draw_sound(2.0, 2), settings=(1.0, 0, 1.0), seed=7),
        hearing_of(model, draw_sound(19.5, 3), language="English", max_tokens=5),
        hearing_of(model, draw_sound(1.0, 4), context="the water", settings=(0.7, 5, 0.9)),
        hearing_of(model, draw_sound(8.0, 5), settings=(2.0, 0, 0.5), seed=2**63 - 1),
        hearing_of(model, draw_sound(0.0127, 6), max_tokens=1),
        hearing_of(model, np.concatenate([1e-6 * draw_sound(1.5, 8), draw_sound(1.5, 9)])),
        hearing_of(model, draw_sound(3.3, 7), settings=(1.3, 1 << 31, 1.0), seed=9),
    ]


def assert_same(ones: Sequence[Hearing], others: Sequence[Hearing]) -> None:
    for one, other in zip(ones, others, strict=True):
        assert one.seq.token_ids == other.seq.token_ids
        assert one.texts == other.texts
        assert one.end is not None and other.end is not None
        assert one.end.avg_logprob == pytest.approx(other.end.avg_logprob, abs=1e-4)
        assert one.end == replace(other.end, avg_logprob=one.end.avg_logprob)


def runner_of(model: ListeningModel) -> GpuAsrRunner:
    assert isinstance(model.runner, GpuAsrRunner)
    return model.runner


@pytest.fixture(scope="module")
def expected(plain: ListeningModel) -> list[Hearing]:
    """Each piece alone on the CPU's runner."""
    alone = pieces(plain)
    for piece in alone:
        run(plain, {0: [piece]})
    return alone


@pytest.mark.parametrize("sizes", [(1, 2, 3, 4, NUM_SLOTS), (NUM_SLOTS,)], ids=["exact", "padded"])
def test_a_busy_batch_hears_what_the_plain_runner_hears_of_each_alone(
    graphs: ListeningModel,
    expected: list[Hearing],
    sizes: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More pieces than slots; they join at different tokens, and others leave in between."""
    monkeypatch.setattr(runner_of(graphs)._tokens, "sizes", sizes)
    got, passing = pieces(graphs), pieces(graphs)[1:3]
    joining = {0: [passing[0], *got[:2]], 1: [passing[1], *got[2:3]], 4: got[3:]}
    run(graphs, joining, {3: passing[:1], 5: passing[1:]})
    assert_same(expected, got)
    assert passing[0].seq.token_ids == expected[1].seq.token_ids[:2]
    assert passing[1].seq.token_ids == expected[2].seq.token_ids[:3]


def test_clips_are_heard_alike_in_any_company(
    graphs: ListeningModel, expected: list[Hearing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In graphs that are too large, and when one graph does not take all of them."""
    monkeypatch.setattr(hearing, "CHUNKS", (21,))
    monkeypatch.setattr(hearing, "WINDOWS", (21,))
    got = pieces(graphs)
    run(graphs, {0: got})
    assert_same(expected, got)


def test_no_more_candidates_are_sorted_than_somebody_has(
    graphs: ListeningModel, expected: list[Hearing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A greedy one alone needs no sort, one of the five likeliest only those."""
    tokens = runner_of(graphs)._tokens
    monkeypatch.setattr(tokens, "candidates", (1, 5, tokens.candidates[-1]))
    tokens._graphs._captured.clear()
    got, found = pieces(graphs), []
    for piece in got[:4]:
        run(graphs, {0: [piece]})
        (key,) = tokens._graphs._captured
        found.append(key.num_candidates)
        tokens._graphs._captured.clear()
    assert found == [1, tokens.candidates[-1], 1, 5]
    assert_same(expected[:4], got[:4])


def test_8_bit_weights_are_heard_alike_in_graphs_and_without(tiny_asr: Path) -> None:
    devices = [
        Device(CPU, torch.float32, lanes=lanes, is_fp8=True) for lanes in (None, StandInLane)
    ]
    one, other = (load(tiny_asr / "tiny-asr", device) for device in devices)
    layer = one.runner.decoder.stack.layers[0]
    assert isinstance(layer.gate_up, Fp8Linear) and isinstance(layer.down, Fp8Linear)
    heard = [pieces(one)[1:4], pieces(other)[1:4]]
    for model, own in zip((one, other), heard, strict=True):
        run(model, {0: own})
    assert_same(*heard)


def test_a_prompt_longer_than_every_graph_is_read_without_one(
    graphs: ListeningModel, expected: list[Hearing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefill, "ROWS", (16, 64))
    got = pieces(graphs)
    run(graphs, {0: got[:1], 2: got[1:]})
    assert_same(expected, got)


def test_some_clips_of_30_s_fill_the_graph_that_reads_them() -> None:
    rows = num_audio_tokens(30 * LISTEN_RATE_HZ // LISTEN_HOP) + 14  # and the words around
    for number in (3, 4, 5):
        assert round_up(number * rows, prefill.ROWS) < 1.1 * number * rows
    assert all(size % 16 == 0 for size in prefill.ROWS)  # as attention wants the rows of a mask


def test_attention_is_given_a_mask_that_is_made_once_for_all_layers(
    graphs: ListeningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = list[torch.Tensor]()
    attend = prefill.grouped_attention

    def watched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> object:
        masks.append(mask)
        return attend(q, k, v, mask)

    runner = runner_of(graphs)
    prompts = runner._prefill_graphs
    monkeypatch.setattr(prompts, "_buffers", {})  # those that there are belong to graphs
    monkeypatch.setattr(prefill, "grouped_attention", watched)
    with torch.inference_mode():
        prompts._build(16)()
    assert len(masks) == runner.decoder.stack.config.num_layers > 1
    assert {id(mask) for mask in masks} == {id(masks[0])}
    assert masks[0].is_floating_point()


def test_tokens_are_read_one_step_after_they_were_asked_for(graphs: ListeningModel) -> None:
    runner = runner_of(graphs)
    one, other = (hearing_of(graphs, draw_sound(1.0, seed), max_tokens=4) for seed in (1, 2))
    runner.scheduler.add([one.seq])
    for number in range(1, 5):
        if number == 3:
            runner.scheduler.add([other.seq])
        assert runner.step() == []
        assert (one.seq.num_launched, len(one.seq.token_ids)) == (number, number - 1)
        assert len(other.seq.token_ids) == max(0, number - 3)
    leave(graphs, other)
    (ending,) = runner.step()
    assert (ending.seq, ending.reason) == (one.seq, EndReason.LENGTH)
    assert (len(one.seq.token_ids), len(other.seq.token_ids)) == (4, 1)
    leave(graphs, one)
    assert not runner.has_work


def test_the_device_knows_an_end_before_the_host_does(graphs: ListeningModel) -> None:
    """From then on the slot writes nothing."""
    runner, sound = runner_of(graphs), draw_sound(1.0)
    spoken = hearing_of(graphs, sound, max_tokens=8)
    run(graphs, {0: [spoken]})
    tokens = spoken.seq.token_ids
    at = next(at for at in range(1, 8) if tokens[at] not in tokens[:at])
    ends, whole = runner._tokens._eos, runner._tokens.whole
    before = ends.clone()
    ends.fill_(tokens[at])
    hearing = hearing_of(graphs, sound, max_tokens=8)
    runner.scheduler.add([hearing.seq])
    seen = []
    for _ in range(at + 3):
        runner.step()
        seen.append([int(whole[row, hearing.seq.slot]) for row in (LEFT, POSITION)])
    start = hearing.seq.num_prompt_tokens - 1
    going = [[7 - number, start + number + 1] for number in range(at)]
    assert seen == [*going, *[[0, start + at + 1]] * 3]
    ends.copy_(before)
    leave(graphs, hearing)
    runner.step()


def test_a_step_that_breaks_leaves_nothing_behind(
    graphs: ListeningModel, expected: list[Hearing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a token that was asked for before, nor a slot or a page."""
    runner = runner_of(graphs)
    for part, name in ((runner._tokens, "launch"), (runner._hearing, "hear")):
        broken = pieces(graphs)[1:4]
        runner.scheduler.add([broken[0].seq])
        runner.step()
        with monkeypatch.context() as patch:
            patch.setattr(part, name, fail)
            runner.scheduler.add([one.seq for one in broken[1:]])
            with pytest.raises(RuntimeError, match="device lost"):
                runner.step()
        for seq in runner.scheduler.everyone():
            runner.scheduler.remove(seq)
            runner.release(seq)
        runner.restart()
        assert not runner.has_work
        assert runner.step() == []
        got = pieces(graphs)
        run(graphs, {0: got})
        assert_same(expected, got)


def fail(*args: object, **more: object) -> None:
    raise RuntimeError("device lost")
