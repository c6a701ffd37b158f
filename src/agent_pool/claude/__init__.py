"""One Claude Code process: how it is started, talked to, measured and ended."""
