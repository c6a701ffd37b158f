"""``python -m benchmarks``."""

from benchmarks.command import benchmarks

if __name__ == "__main__":
    benchmarks(prog_name="python -m benchmarks")
