"""`python -m worker.cli`: the same as `mailquay`."""

from worker.cli import main

main()
