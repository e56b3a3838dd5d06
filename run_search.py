"""Search attention placements: ``python run_search.py --budget 50``; ``--help`` lists the rest."""

import sys

from nas.cli import main

if __name__ == "__main__":
    sys.exit(main())
