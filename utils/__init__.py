"""What every other room uses."""

from utils.run.memory import use_huge_pages

use_huge_pages()  # before torch makes its first tensor
