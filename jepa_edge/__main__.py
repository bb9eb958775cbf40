"""`python -m jepa_edge` is `jepa-edge`."""

from jepa_edge.cli import main

main()
