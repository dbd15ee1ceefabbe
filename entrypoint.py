#!/usr/bin/env python
"""The container's command: `segadapt` without an installation."""

import sys

from adapt.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
