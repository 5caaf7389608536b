"""python -m preprocess.demo --output DIR: write the generated demo set, ready for preprocess.prepare."""

from __future__ import annotations

import logging

from preprocess.demo.dataset import make_demo_set
from preprocess.demo.forgeries import ForgeryConfig
from preprocess.demo.plan import DemoConfig
from utils.config import parse_groups
from utils.errors import run_command


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    make_demo_set(*parse_groups(__doc__, DemoConfig, ForgeryConfig))


if __name__ == "__main__":
    run_command(main)
