"""The methods that the benchmark compares. Each runs in a process of its own (`method_server`)."""
