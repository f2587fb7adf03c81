"""`python -m diskmigration.controller`."""

import gc

# Nearly everything that the modules make stays for good, and the search for garbage in it takes a tenth of the start.
gc.disable()

from diskmigration.controller.main import main  # noqa: E402 - see above

gc.freeze()
gc.enable()

main()
