"""The command `python -m loaders.audit`: loaders/audit/audit.py or, with --ids_only, loaders/audit/ids.py."""

import sys

from loaders.audit import audit, ids
from utils.errors import run_command


def main() -> int:
    """Audit a prepared data set or, with --ids_only, lists of clips, which has flags of its own."""
    if not any(word.split("=")[0] == "--ids_only" for word in sys.argv[1:]):
        return audit.main()
    if not {"-h", "--help"}.isdisjoint(sys.argv):
        sys.argv[1:] = ["--help"]  # "--ids_only --help" lacks a list
    return ids.main()


if __name__ == "__main__":
    run_command(main)
