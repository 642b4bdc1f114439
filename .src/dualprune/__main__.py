"""`python -m dualprune`: the command line."""

import sys

from dualprune.pipeline.cli.main import main

sys.exit(main())
