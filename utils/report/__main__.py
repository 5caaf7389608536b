"""The command `python -m utils.report`, see utils/report/card.py."""

from utils.errors import run_command
from utils.report.card import main

if __name__ == "__main__":
    run_command(main)
