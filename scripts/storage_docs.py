"""Makes the table of verbs in ``docs/storage.md`` from the command itself.

``--check`` writes nothing and fails when the table is stale.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from carscraper.command import Verb
from carscraper.commands.storage import Command

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "storage.md"
BEGIN = "<!-- verbs: made by scripts/storage_docs.py -->"
END = "<!-- verbs: end -->"


class Recorder(argparse.ArgumentParser):
    """Remembers the arguments it is given, those of groups too."""

    def __init__(self) -> None:
        self.actions: list[argparse.Action] = []
        super().__init__(add_help=False)

    def _add_action(self, action: argparse.Action) -> argparse.Action:
        self.actions.append(action)
        return super()._add_action(action)


def arguments_of(verb: Verb) -> list[argparse.Action]:
    """Give the arguments of *verb* alone, without those that verbs share."""
    recorder = Recorder()
    verb.arguments(recorder)
    return recorder.actions


def usage(action: argparse.Action) -> str:
    """Give one argument as the help shows it."""
    name = action.option_strings[-1] if action.option_strings else ""
    value = ""
    if action.nargs != 0:
        value = str(action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper()))
    text = f"{name} {value}".strip()
    many = "…" if action.nargs in {"+", "*"} or type(action).__name__ == "_AppendAction" else ""
    return f"`{text}`{many}"


def cell(text: str) -> str:
    """Make *text* fit into a cell of a table."""
    return " ".join(text.replace("|", "\\|").split())


def table() -> str:
    """Lay out all verbs."""
    lines = ["| verb | what it does | arguments and options |", "|---|---|---|"]
    for verb in Command.verbs:
        own = [f"{usage(action)} {action.help or ''}".strip() for action in arguments_of(verb)]
        own += ["`--json`"] + ["`--dry-run`", "`--yes`"] * verb.changes
        lines.append(f"| `{verb.name}` | {cell(verb.summary)} | {cell('; '.join(own)).replace('%%', '%')} |")
    return "\n".join(lines)


def main() -> int:
    """Write the table, or compare."""
    text = DOCS.read_text("utf-8")
    made = re.sub(rf"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{table()}\n{END}", text, flags=re.DOTALL)
    if "--check" in sys.argv[1:]:
        if made != text:
            print("docs/storage.md is stale: run scripts/storage_docs.py", file=sys.stderr)
            return 1
        return 0
    DOCS.write_text(made, "utf-8")
    print("docs/storage.md written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
