"""Tasks, workers and events as people see them, in the dashboard and in `top`."""
