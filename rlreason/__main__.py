"""`python -m rlreason` is the command `rlreason`."""

import sys

from rlreason import main

sys.exit(main.main())
