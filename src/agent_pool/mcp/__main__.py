"""``python -m agent_pool.mcp``: the same server as ``agent-pool serve``."""

from agent_pool.mcp import run

if __name__ == "__main__":
    run()
