"""`python -m diskmigration.agent`."""

from diskmigration.agent.main import main

if __name__ == "__main__":
    main()
