"""`python -m agent_pool.loopback [--port N]`: serve the echo script until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from agent_pool.errors import ConfigError
from agent_pool.loopback import LoopbackAPI


async def serve(port: int) -> None:
    """Serve the echo script until SIGINT or SIGTERM. Raises ConfigError if the port is in use."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with LoopbackAPI(port=port) as api:
        lines = [f"export {name}={value}" for name, value in api.env.items()]
        sys.stdout.write("\n".join([f"# an offline Messages API on {api.url}", *lines, ""]))
        sys.stdout.flush()
        await stopped.wait()


def main() -> int:
    """Run the command and return its exit code: 0, or 2 if it cannot listen on the port."""
    parser = argparse.ArgumentParser(prog="python -m agent_pool.loopback", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes any free port")
    try:
        asyncio.run(serve(parser.parse_args().port))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
