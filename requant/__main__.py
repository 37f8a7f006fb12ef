"""`python -m requant`."""

from requant.cli.main import main

main()
