"""The dashboard: the daemon's pages for a browser."""
