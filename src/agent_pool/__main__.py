"""Run the command line with ``python -m agent_pool``."""

from agent_pool.cli import main

if __name__ == "__main__":
    main()
