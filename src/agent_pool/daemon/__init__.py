"""The daemon: one pool for all sessions and programs of a user."""
