"""Forwards connections: into another network namespace by a Unix socket, which belongs to none.

python forward_port.py LISTEN TARGET

Each of the two is the port of 127.0.0.1, or the path of a Unix socket.
"""

from __future__ import annotations

import asyncio
import sys


async def connect(place: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if place.isdecimal():
        return await asyncio.open_connection("127.0.0.1", int(place))
    return await asyncio.open_unix_connection(place)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:  # one of the two has gone
        pass
    finally:
        writer.close()


async def main(listen: str, target: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await connect(target)
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    if listen.isdecimal():
        server = await asyncio.start_server(serve, "127.0.0.1", int(listen))
    else:
        server = await asyncio.start_unix_server(serve, listen)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
