from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent_pool import ConfigError, DaemonUnavailable, RemotePool, connect
from agent_pool.client.connection import DaemonConnection
from agent_pool.loopback import LoopbackAPI
from agent_pool.sync import connect as connect_blocking
from support.waiting import run


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a client without a daemon."""
    return {
        "HOME": str(tmp_path),
        "AGENT_POOL_DAEMON": "on",
        "AGENT_POOL_RUNTIME_DIR": str(tmp_path / "run"),
        "AGENT_POOL_STATE_DIR": str(tmp_path / "state"),
    }


def test_no_daemon_is_an_error_if_none_may_be_started(environ: dict[str, str]) -> None:
    async def main() -> None:
        pool = connect(environ=environ, start=False)
        assert isinstance(pool, RemotePool)
        with pytest.raises(DaemonUnavailable, match="agent-pool daemon start"):
            await pool.open()
        with pytest.raises(DaemonUnavailable):
            await connect(environ=environ, start=False).agents()
        await pool.close()

    run(main())
    with pytest.raises(DaemonUnavailable):
        connect_blocking(environ=environ, start=False).open()


def test_a_client_without_a_daemon_by_choice_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="AGENT_POOL_DAEMON is off"):
        connect(environ={**environ, "AGENT_POOL_DAEMON": "off"})


@pytest.mark.parametrize("url", ["", "127.0.0.1:80", "unix:/x"])
def test_a_wrong_url_is_refused_with_the_expected_form(environ: dict[str, str], url: str) -> None:
    with pytest.raises(ConfigError, match="http://127"):
        connect(environ=environ, url=url)


def test_a_token_without_a_url_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="url"):
        connect(environ=environ, token="t")


def test_a_port_without_a_server_is_reported(environ: dict[str, str]) -> None:
    async def main() -> None:
        pool = RemotePool("http://127.0.0.1:9", token="hunter2", environ=environ, patience=0.1)
        async with pool:
            with pytest.raises(DaemonUnavailable, match=r"127\.0\.0\.1:9") as caught:
                await pool.stats()
            assert "hunter2" not in str(caught.value)

    run(main())


def test_a_server_of_another_kind_is_reported_at_the_first_answer(
    environ: dict[str, str],
) -> None:
    async def main() -> None:
        async with LoopbackAPI(lambda _: "x") as api, RemotePool(api.url, environ=environ) as pool:
            with pytest.raises(DaemonUnavailable, match="is it agent-pool"):
                await pool.stats()
            assert len(api.other_requests) == 1

    run(main())


def test_a_gateway_is_asked_again_while_it_has_no_daemon() -> None:
    answers = [b"502 Bad Gateway\r\n", b"503 Busy\r\n", b"504 Late\r\n", b"200 OK\r\n"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + answers.pop(0) + b"Connection: close\r\n\r\n")
        if not answers:
            writer.write(b'{"a": 1}')
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            connection = DaemonConnection(None, f"http://127.0.0.1:{port}")
            try:
                assert await connection.get("stats") == {"a": 1}
            finally:
                await connection.close()

    run(main())
