"""The command `larq-nobn` with the tiny network, killed where `KILL_AT` says."""

import sys

import tiny_recipe  # noqa: F401  (adds the network, and kills)

from larq_nobn.cli import main

sys.exit(main(sys.argv[1:]))
