"""Bob reaches nothing of Alice's: for every route, what is hers looks as if it did not exist."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from fake_server import as_user
from fastapi.testclient import TestClient
from isolation_cases import CASES, LISTS, NOTHING, WITHOUT_IDS, Case, Things, make_things
from route_table import addresses, routes
from sqlalchemy import select
from store_rows import kept_files

from qwen3_audio.store.opening import Store
from qwen3_audio.store.tables import metadata

USER_ROUTES = [route for route in routes() if " /admin/" not in route]


def rows_of(store: Store, user_id: int) -> dict[str, list[Any]]:
    """Every row of every table that belongs to a user, and every file."""
    with store.db.read() as conn:
        owned = {
            table.name: [
                tuple(row) for row in conn.execute(select(table).where(table.c.user_id == user_id))
            ]
            for table in metadata.sorted_tables
            if "user_id" in table.c
        }
    return owned | {"files": sorted(kept_files(store))}


def send(client: TestClient, route: str, case: Case, of: Things, key: str) -> list[Any]:
    """The answers to the requests of a case, each at every address that the route has."""
    method, path = route.split(" ")
    requests = [{"url": path} | request for request in case(of)]
    return [
        client.request(method, **(request | {"url": address}), headers=as_user(key))
        for request in requests
        for address in addresses(request["url"])
    ]


def without_numbers(text: str) -> str:
    return re.sub(r"\d+", "N", text)


def test_every_route_has_its_row() -> None:
    assert sorted([*CASES, *LISTS, *WITHOUT_IDS]) == USER_ROUTES


@pytest.mark.parametrize("route", sorted(CASES))
def test_bob_gets_404_and_nothing_changes(
    route: str,
    keyed_client: TestClient,
    store: Store,
    alice: int,
    bob: int,
    make_key: Callable[[int], str],
) -> None:
    key, things = make_key(bob), make_things(store, alice)
    before = rows_of(store, alice)
    refused = send(keyed_client, route, CASES[route], things, key)
    unknown = send(keyed_client, route, CASES[route], NOTHING, key)
    for reply, of_nothing in zip(refused, unknown, strict=True):
        assert reply.status_code == of_nothing.status_code == 404, reply.text
        assert without_numbers(reply.text) == without_numbers(of_nothing.text)
    assert rows_of(store, alice) == before


@pytest.mark.parametrize("route", sorted(CASES))
def test_the_rows_are_about_ids_that_do_work_for_their_owner(
    route: str,
    keyed_client: TestClient,
    store: Store,
    alice: int,
    make_key: Callable[[int], str],
) -> None:
    key, things = make_key(alice), make_things(store, alice)
    first, *_ = send(keyed_client, route, CASES[route], things, key)
    assert first.is_success, first.text


@pytest.mark.parametrize("route", sorted(LISTS))
def test_bobs_lists_show_nothing_of_alices(
    route: str,
    keyed_client: TestClient,
    store: Store,
    alice: int,
    bob: int,
    make_key: Callable[[int], str],
) -> None:
    key, things = make_key(bob), make_things(store, alice)
    for reply in send(keyed_client, route, LISTS[route], things, key):
        assert reply.status_code in (200, 404), reply.text
        for name in ("key_id", "voice_id", "generation_id"):
            hers = rf'"{name}": ?"?(voice_)?{getattr(things, name)}\b'
            assert not re.search(hers, reply.text)
        assert "Geoff" not in reply.text


def test_bob_is_told_no_more_by_admin_routes(
    keyed_client: TestClient, alice: int, bob: int, make_key: Callable[[int], str], store: Store
) -> None:
    key, things = make_key(bob), make_things(store, alice)
    before = rows_of(store, alice)
    for route in set(routes()) - set(USER_ROUTES):
        method, path = route.split(" ")
        url = re.sub(r"\{user_id\}", str(alice), path)
        url = re.sub(r"\{\w+\}", str(things.key_id), url)
        assert keyed_client.request(method, url, headers=as_user(key)).status_code == 403
    assert rows_of(store, alice) == before
