"""Warm Claude Code agents: a process pool behind MCP, a command line and a Python API."""
