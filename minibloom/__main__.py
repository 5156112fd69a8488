"""`python -m minibloom`: the command, also where the folder that `minibloom` was installed to is not on the path."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
