"""`python -m diskmigration.agent`."""

import gc

# Nearly everything that the modules make stays for good, and the search for garbage in it takes a tenth of the start.
gc.disable()

from diskmigration.agent.main import main  # noqa: E402 - see above

gc.freeze()
gc.enable()

if __name__ == "__main__":
    main()
