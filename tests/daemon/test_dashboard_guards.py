"""Who may use the dashboard: links, cookies, forms and headers, without a browser."""

from __future__ import annotations

import stat
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool import TaskRequest
from agent_pool.daemon.dashboard.sessions import KEY_FILE, SESSION_SECONDS, Visitor, Visitors
from support.dashboards import RunningDashboard, serve_dashboard
from support.fake_pool import FakePool

pytestmark = pytest.mark.anyio

PATHS = ("/ui/", "/ui/history", "/ui/agents", "/ui/actions", "/ui/events", "/ui/tasks/x")


def client_of(served: RunningDashboard) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=served.address)


async def signed_in(served: RunningDashboard, client: httpx2.AsyncClient, **kind: bool) -> str:
    """Sign the client in; return the key that its forms must have."""
    link = urlsplit(served.link(**kind))
    response = await client.get(f"{link.path}?{link.query}")
    assert response.status_code == 303
    assert response.headers["location"] == "/ui/"
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    visitor = served.dashboard.visitors.find(client.cookies["agent_pool_session"])
    assert visitor is not None
    return visitor.form_key


@pytest.mark.parametrize("path", PATHS)
async def test_without_a_cookie_no_page_is_shown(tmp_path: Path, path: str) -> None:
    async with serve_dashboard(FakePool(), tmp_path) as served, client_of(served) as client:
        response = await client.get(path, headers={"cookie": "agent_pool_session=guess"})
        assert response.status_code == 401
        assert "agent-pool open" in response.text


async def test_a_link_works_once(tmp_path: Path) -> None:
    async with serve_dashboard(FakePool(), tmp_path) as served:
        link = served.link()
        async with httpx2.AsyncClient() as first, httpx2.AsyncClient() as second:
            assert (await first.get(link)).status_code == 303
            assert (await second.get(link)).status_code == 403


async def test_every_response_has_the_strict_policy(tmp_path: Path) -> None:
    async with serve_dashboard(FakePool(), tmp_path) as served, client_of(served) as client:
        await signed_in(served, client)
        for path in ("/ui/", "/ui/static/app.js", "/ui/tasks/unknown", "/ui/enter?code=no"):
            headers = (await client.get(path)).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "same-origin"


async def test_a_form_without_the_pages_key_is_refused(tmp_path: Path) -> None:
    async with serve_dashboard(FakePool(), tmp_path) as served, client_of(served) as client:
        key = await signed_in(served, client)
        form = {"agent": "reviewer", "task": "look", "project": ""}
        for wrong in ("", "guess", key[:-1]):
            response = await client.post("/ui/run", data={**form, "form_key": wrong})
            assert response.status_code == 403
        assert await served.pool.tasks() == []
        response = await client.post("/ui/run", data={**form, "form_key": key})
        assert response.status_code == 303
        assert len(await served.pool.tasks()) == 1


async def test_a_link_for_looking_cannot_change_anything(tmp_path: Path) -> None:
    async with serve_dashboard(FakePool(), tmp_path) as served, client_of(served) as client:
        handle = await served.pool.submit(TaskRequest("reviewer", "look"))
        await handle.result()
        key = await signed_in(served, client, is_read_only=True)
        for path in ("/ui/run", f"/ui/tasks/{handle.id}/cancel", f"/ui/tasks/{handle.id}/retry"):
            response = await client.post(path, data={"form_key": key, "agent": "a", "task": "b"})
            assert response.status_code == 403
        assert len(await served.pool.tasks()) == 1


# Cookies


def signed_in_visitor(visitors: Visitors, **kind: bool) -> Visitor:
    visitor = visitors.redeem(visitors.make_code(is_read_only=kind.get("is_read_only", False)))
    assert visitor is not None
    return visitor


@pytest.mark.parametrize("is_read_only", [False, True])
def test_a_cookie_outlives_the_daemon_and_stays_as_it_was(
    tmp_path: Path, is_read_only: bool
) -> None:
    visitor = signed_in_visitor(Visitors(tmp_path), is_read_only=is_read_only)
    assert Visitors(tmp_path).find(visitor.session) == visitor
    assert visitor.is_read_only is is_read_only
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


def test_a_cookie_ends_after_twelve_hours_and_not_before(tmp_path: Path) -> None:
    now = [1_000_000.0]
    visitor = signed_in_visitor(Visitors(tmp_path, lambda: now[0]))
    later = Visitors(tmp_path, lambda: now[0])
    now[0] += SESSION_SECONDS - 2
    assert later.find(visitor.session) is not None
    now[0] += 4
    assert later.find(visitor.session) is None
    # A clock that was set back makes no cookie last longer.
    now[0] -= 3 * SESSION_SECONDS
    assert later.find(visitor.session) is None


def test_signing_out_ends_every_cookie_also_after_a_restart(tmp_path: Path) -> None:
    visitors = Visitors(tmp_path)
    visitor, unused = signed_in_visitor(visitors), visitors.make_code(is_read_only=False)
    visitors.sign_out_all()
    assert visitors.find(visitor.session) is None
    assert visitors.redeem(unused) is None
    assert Visitors(tmp_path).find(visitor.session) is None
    assert Visitors(tmp_path).find(signed_in_visitor(visitors).session) is not None


def test_a_key_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    visitor = signed_in_visitor(Visitors(tmp_path))
    (tmp_path / KEY_FILE).chmod(0o644)
    assert Visitors(tmp_path).find(visitor.session) is None
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


@given(st.data())
def test_no_changed_cookie_is_accepted(data: st.DataObject) -> None:
    visitors = Visitors()
    session = signed_in_visitor(visitors, is_read_only=True).session
    place = data.draw(st.integers(0, len(session) - 1))
    other = data.draw(st.characters().filter(lambda one: one != session[place]))
    assert visitors.find(session[:place] + other + session[place + 1 :]) is None
    assert visitors.find(data.draw(st.text())) is None
    assert Visitors().find(session) is None
