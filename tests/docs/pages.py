"""Pages of the documentation as tests read them."""

from __future__ import annotations

import pathlib
import re
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Block(NamedTuple):
    intro: str  # The paragraph before it, on one line.
    text: str


def code_blocks(page: str) -> list[Block]:
    """The indented blocks of code of a page, in order."""
    blocks: list[Block] = []
    paragraph: list[str] = []
    code: list[str] = []
    previous = ""
    for line in [*(ROOT / page).read_text().splitlines(), "end"]:
        if line.startswith("    ") or (code and not line):
            code.append(line[4:])
        else:
            if code:
                blocks.append(Block(" ".join(paragraph), "\n".join(code).rstrip("\n") + "\n"))
                code = []
            if line and not previous:
                paragraph = []
            if line:
                paragraph.append(line)
        previous = line
    return blocks


def block_after(page: str, intro: str) -> str:
    """The one block whose paragraph has `intro` in it."""
    (found,) = [block.text for block in code_blocks(page) if intro in block.intro]
    return found


def table_after(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table after a heading, without its head; `code` marks are dropped."""
    section = (ROOT / page).read_text().split(f"\n{heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE).group().splitlines()
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines[2:]]
