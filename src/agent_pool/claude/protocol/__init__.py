"""The protocol of one Claude Code process, without any IO.

Bytes become lines and frames (`framing`, `frames`), frames move the session through its states
(`states`, `session`), and the session reports events, signals and results (`signals`, `results`).
Nothing above this package knows a key of the CLI's frames.
"""
