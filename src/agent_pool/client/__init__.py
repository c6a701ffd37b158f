"""Clients of the daemon: how it is started and reached."""
