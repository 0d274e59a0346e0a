"""`python -m chimera.cli`."""

from chimera.cli import main

main()
