"""`python -m larq_nobn` is the command `larq-nobn`."""

import sys

from larq_nobn.cli import main

sys.exit(main())
