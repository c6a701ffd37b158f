"""`python -m agent_pool`: the command line."""

from agent_pool.cli import main

if __name__ == "__main__":
    main()
