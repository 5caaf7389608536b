"""The command `python -m loaders.audit`, see loaders/audit/audit.py."""

from loaders.audit.audit import main
from utils.errors import run_command

if __name__ == "__main__":
    run_command(main)
