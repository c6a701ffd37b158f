"""Benchmarks: agent-pool beside other ways to run an agent's tasks, in one run.

    python -m benchmarks --help

Run it from a checkout; it is not part of the installed package. It is offline: the real Claude
Code CLI works in a temporary home with a scripted model on 127.0.0.1.
"""
