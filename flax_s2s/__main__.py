"""`python -m flax_s2s VERB`."""

import sys

from flax_s2s.cli import main

if __name__ == "__main__":
    sys.exit(main())
