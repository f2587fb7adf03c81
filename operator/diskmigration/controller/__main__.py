"""`python -m diskmigration.controller`."""

from diskmigration.controller.main import main

main()
