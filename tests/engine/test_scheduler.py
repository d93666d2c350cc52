"""Joining, leaving and waiting, by integers alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3_audio.engine.kv_cache import PAGE_POSITIONS, PageBook
from qwen3_audio.engine.scheduler import Plan, Scheduler
from qwen3_audio.engine.sequence import Sequence
from qwen3_audio.errors import Overloaded


def make(
    *, num_slots: int = 4, max_prefill: int = 1000, max_waiting: int = 100, num_pages: int = 1000
) -> Scheduler[Sequence]:
    return Scheduler(
        num_slots=num_slots,
        max_prefill_tokens=max_prefill,
        max_waiting=max_waiting,
        memory=PageBook(num_pages),
    )


def seq(
    seq_id: int,
    *,
    owner: int = 1,
    num_prompt_tokens: int = 10,
    num_pages: int = 1,
    request_id: int | None = None,
) -> Sequence:
    return Sequence(
        seq_id=seq_id,
        request_id=request_id,
        owner=owner,
        num_prompt_tokens=num_prompt_tokens,
        num_reserved_positions=num_pages * PAGE_POSITIONS,
        emit=lambda item: None,
    )


def ids(plan: Plan[Sequence]) -> tuple[list[int], list[int]]:
    return [s.seq_id for s in plan.prefill], [s.seq_id for s in plan.decode]


def test_new_requests_join_while_others_run() -> None:
    scheduler = make(num_slots=2)
    first, second, third = (seq(i) for i in range(3))
    scheduler.add([first])
    assert ids(scheduler.plan()) == ([0], [])
    scheduler.add([second])
    assert ids(scheduler.plan()) == ([1], [0])
    scheduler.add([third])
    assert ids(scheduler.plan()) == ([], [0, 1])
    assert scheduler.num_waiting == 1
    scheduler.remove(first)
    assert ids(scheduler.plan()) == ([2], [1])
    assert scheduler.num_waiting == 0


def test_a_long_prompt_goes_alone_but_goes() -> None:
    scheduler = make(max_prefill=20)
    scheduler.add([seq(0, num_prompt_tokens=500), seq(1)])
    assert ids(scheduler.plan())[0] == [0]
    assert ids(scheduler.plan())[0] == [1]


def test_prompts_fill_one_step_up_to_the_bound() -> None:
    scheduler = make(max_prefill=25)
    scheduler.add([seq(i) for i in range(3)])
    assert ids(scheduler.plan()) == ([0, 1], [])
    assert ids(scheduler.plan()) == ([2], [0, 1])


def test_a_full_line_says_so_and_how_long_it_is() -> None:
    scheduler = make(max_waiting=2)
    scheduler.add([seq(0), seq(1)])
    with pytest.raises(Overloaded, match="2 requests are already waiting"):
        scheduler.add([seq(2)])


def test_a_request_is_put_in_line_whole_or_not_at_all() -> None:
    scheduler = make(max_waiting=3)
    scheduler.add([seq(0)])
    with pytest.raises(Overloaded):
        scheduler.add([seq(1), seq(2), seq(3)])
    assert scheduler.num_waiting == 1


def test_a_request_longer_than_the_line_goes_when_nobody_waits() -> None:
    scheduler = make(max_waiting=2)
    scheduler.add([seq(i) for i in range(5)])
    assert scheduler.num_waiting == 5


def test_the_pieces_of_a_request_count_as_one_in_the_line() -> None:
    scheduler = make(num_slots=1, max_waiting=2)
    pieces = [seq(i, request_id=100) for i in range(50)]
    scheduler.add(pieces)
    assert scheduler.num_waiting == 1
    scheduler.add([seq(50)])
    with pytest.raises(Overloaded, match="2 requests"):
        scheduler.add([seq(51)])


def test_a_request_of_many_pieces_lets_others_of_its_owner_in_between() -> None:
    scheduler = make(num_slots=2)
    pieces = [seq(i, request_id=100) for i in range(10)]
    scheduler.add(pieces)
    assert ids(scheduler.plan())[0] == [0, 1]
    scheduler.add([seq(50)])
    scheduler.remove(pieces[0])
    assert ids(scheduler.plan())[0] == [50]
    scheduler.remove(pieces[1])
    assert ids(scheduler.plan())[0] == [2]


def test_the_rest_of_a_request_that_was_let_in_is_never_refused() -> None:
    scheduler = make(max_waiting=1)
    scheduler.add([seq(0)])
    scheduler.add([seq(1), seq(2)], is_admitted=True)
    assert scheduler.num_waiting == 3


def test_who_has_least_running_goes_first() -> None:
    scheduler = make(num_slots=3)
    scheduler.add([seq(i, owner=1) for i in range(10)])
    scheduler.add([seq(20, owner=2), seq(21, owner=2)])
    assert ids(scheduler.plan())[0] == [0, 20, 1]


def test_a_leaving_request_makes_room_for_its_owner() -> None:
    scheduler = make(num_slots=2)
    busy = [seq(0, owner=1), seq(1, owner=1)]
    scheduler.add(busy)
    scheduler.plan()
    scheduler.add([seq(2, owner=1), seq(3, owner=2)])
    scheduler.remove(busy[0])
    assert ids(scheduler.plan())[0] == [3]
    scheduler.remove(busy[1])
    assert ids(scheduler.plan())[0] == [2]


def test_without_memory_the_first_in_line_waits_and_nobody_overtakes_it() -> None:
    scheduler = make(num_pages=4)
    large = seq(0, num_pages=3)
    scheduler.add([large, seq(1, num_pages=3), seq(2, num_pages=1)])
    assert ids(scheduler.plan())[0] == [0]
    assert ids(scheduler.plan())[0] == []
    scheduler.remove(large)
    scheduler.memory.release(large.num_reserved_positions, [])  # type: ignore[attr-defined]
    assert ids(scheduler.plan())[0] == [1, 2]


def test_a_removed_sequence_frees_its_slot_once() -> None:
    scheduler = make(num_slots=1)
    only = seq(0)
    scheduler.add([only])
    scheduler.plan()
    assert scheduler.remove(only)
    assert not scheduler.remove(only)
    assert scheduler.free_slots == [0]
    assert scheduler.is_idle


def test_a_waiting_sequence_leaves_without_a_trace() -> None:
    scheduler = make()
    only = seq(0)
    scheduler.add([only])
    assert scheduler.remove(only)
    assert scheduler.is_idle
    assert ids(scheduler.plan()) == ([], [])
    assert scheduler.memory.can_reserve(1000 * PAGE_POSITIONS)


orders = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.integers(1, 3),
            st.lists(st.tuples(st.integers(1, 40), st.integers(1, 6)), min_size=1, max_size=4),
        ),
        st.tuples(st.just("plan")),
        st.tuples(st.just("remove"), st.integers(0, 50)),
    ),
    max_size=60,
)


@given(orders)
def test_whatever_comes_slots_and_memory_are_lent_once_and_come_back(
    steps: list[tuple[object, ...]],
) -> None:
    scheduler, book = make(num_slots=3, max_prefill=30, max_waiting=6), PageBook(8)
    scheduler.memory = book
    known: list[Sequence] = []
    for step in steps:
        if step[0] == "add":
            new = [
                seq(len(known) + i, owner=step[1], num_prompt_tokens=tokens, num_pages=pages)
                for i, (tokens, pages) in enumerate(step[2])
            ]
            try:
                scheduler.add(new)
                known += new
            except Overloaded:
                assert scheduler.num_waiting + len(new) > 6
        elif step[0] == "plan":
            plan_and_check(scheduler)
        elif known:
            leave(scheduler, book, known[step[1] % len(known)])
        check_books(scheduler, book)
    drain(scheduler, book)


def plan_and_check(scheduler: Scheduler[Sequence]) -> None:
    before = list(scheduler.running.values())
    plan = scheduler.plan()
    assert plan.decode == before
    assert list(scheduler.running.values()) == before + plan.prefill
    if len(plan.prefill) > 1:
        assert sum(s.num_prompt_tokens for s in plan.prefill) <= 30


def leave(scheduler: Scheduler[Sequence], book: PageBook, leaving: Sequence) -> None:
    was_running = leaving.seq_id in scheduler.running
    is_there = leaving in scheduler.everyone()
    assert scheduler.remove(leaving) is is_there
    if was_running:
        book.release(leaving.num_reserved_positions, [])


def check_books(scheduler: Scheduler[Sequence], book: PageBook) -> None:
    taken = [s.slot for s in scheduler.running.values()]
    assert sorted(taken + scheduler.free_slots) == [0, 1, 2]
    assert len(scheduler.everyone()) == scheduler.num_waiting + len(scheduler.running)
    assert scheduler.is_idle is (not scheduler.everyone())
    reserved = sum(s.num_reserved_positions // PAGE_POSITIONS for s in scheduler.running.values())
    assert reserved <= 8
    assert book.can_reserve((8 - reserved) * PAGE_POSITIONS)
    assert not book.can_reserve((8 - reserved) * PAGE_POSITIONS + 1)


def drain(scheduler: Scheduler[Sequence], book: PageBook) -> None:
    """Nobody waits for ever: as long as those who run leave, the next ones start."""
    while not scheduler.is_idle:
        scheduler.plan()
        assert scheduler.running
        leave(scheduler, book, next(iter(scheduler.running.values())))
    assert book.can_reserve(8 * PAGE_POSITIONS)
