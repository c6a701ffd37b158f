"""The clients of the daemon: how it is found, started and talked to."""
