"""One Claude Code process: how it is started, spoken with, watched and ended."""
