"""The durable store of tasks, and a pool that keeps every task in it."""
