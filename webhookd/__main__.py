"""The command line: `webhookd COMMAND`, or `python -m webhookd COMMAND`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that the arguments name, and exit with its status: 0 clean, 1 failure, 2 usage or settings."""
    from webhookd.cli.root import run  # noqa: PLC0415 - an import of this module alone needs no click

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
