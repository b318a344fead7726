"""`python -m comms_api`: the same as `comms-api`."""

from comms_api.cli.main import main

main()
