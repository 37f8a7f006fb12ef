"""`python -m requant`."""

from requant.cli.start import main

main()
