"""Makes ``docs/settings.md`` from ``carscraper/settings.py``.

It reads the source, not the module: so it needs nothing installed, and no environment of anybody changes the defaults.
``--check`` writes nothing and fails when a file is stale.
"""

from __future__ import annotations

import argparse
import ast
import operator
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / "carscraper" / "settings.py"
DOCS = ROOT / "docs" / "settings.md"

INTRODUCTION = """\
# Settings

<!-- Made from carscraper/settings.py by scripts/settings_docs.py: change that file, then run the script. -->

Highest first: `-s NAME=value` on the command line (and scrapyd's `setting=NAME=value`), the environment, the file
`.env` beside `scrapy.cfg`, the default given here. `CARSCRAPER_ENV_FILE` names another file than `.env`. A variable
that is set to nothing counts as not set, except `IMAGES_STORE`, `OUTPUTS_DIR` and `S3_OUTPUT_PREFIX`.

Relative paths (`var/…`) begin at the folder in which `scrapy` is started. A wrong value ends the crawl before
anything is fetched, with one sentence that names the setting and exit code 4. So does a name that is nearly one of
these or Scrapy's (a letter is missing, or it is in small letters), wherever it is written, and a file that
`CARSCRAPER_ENV_FILE` names and that is not there. Other unknown names are ignored in `.env`, which other programs may
share, and warned of in `-s`.

Keep secrets out of `-s`: everybody on the machine can read a command line. Put them in `.env`, in the environment,
or use a profile or a role."""

# Plain comments above a setting that Scrapy knows say "Default X: why"; these have none worth a line in a table.
_PLUMBING = {"BOT_NAME", "SPIDER_MODULES", "NEWSPIDER_MODULE", "COMMANDS_MODULE", "ADDONS", "ITEM_PIPELINES"} | {
    "EXTENSIONS",
    "DOWNLOADER_MIDDLEWARES",
}
_OPERATORS = {ast.Mult: operator.mul, ast.Pow: operator.pow, ast.Add: operator.add, ast.USub: operator.neg}
_READERS = {"_env", "_env_even_empty"}
_SIZES = ((1024**3, "GiB"), (1024**2, "MiB"))


@dataclass
class Setting:
    """One setting as the source has it."""

    name: str
    section: str
    default: str
    what: str
    used_by: str
    value: str = ""
    """What may be written, from ``checks``."""
    variables: list[str] = field(default_factory=list)
    """The environment variables it is read from; none: only ``-s`` changes it."""


def read_settings(source: str) -> list[Setting]:
    """Read every setting of *source*, in its order."""
    tree = ast.parse(source)
    lines = source.splitlines()
    allowed = _allowed_values(tree)
    settings: list[Setting] = []
    previous_end = 0
    what = used_by = ""
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not isinstance(target, ast.Name) or not target.id.isupper() or target.id.startswith("_"):
            continue
        assert isinstance(node, ast.Assign | ast.AnnAssign)
        assert node.value is not None
        comment = _comment_above(lines, node.lineno)
        # One comment may speak for several settings that follow each other.
        if comment or node.lineno != previous_end + 1:
            what, used_by = _split(comment)
        previous_end = node.end_lineno or node.lineno
        settings.append(
            Setting(
                name=target.id,
                section=_section(lines, node.lineno),
                default=_default(node.value),
                what=what,
                used_by=used_by,
                value=allowed.get(target.id, ""),
                variables=[] if isinstance(node.value, ast.Compare) else _variables(node.value),
            )
        )
    return settings


def _comment_above(lines: list[str], number: int) -> list[str]:
    found: list[str] = []
    for line in reversed(lines[: number - 1]):
        if not line.startswith("#") or line.startswith("# ---"):
            break
        if found and line.startswith("#:") != found[0].startswith("#:"):
            break
        found.insert(0, line)
    return found


def _split(comment: list[str]) -> tuple[str, str]:
    """Part a comment into what a setting is and who reads it."""
    text = " ".join(line.lstrip("#:").strip() for line in comment).replace("``", "`")
    found = re.search(r"\s*Used by (.+?)\.(?=\s|$)", text)
    if not found:
        return text, "Scrapy" if text else ""
    what = " ".join(part for part in (text[: found.start()].strip(), text[found.end() :].strip()) if part)
    return what, found.group(1)


def _section(lines: list[str], number: int) -> str:
    for line in reversed(lines[: number - 1]):
        title = re.fullmatch(r"# --- (.+?) -+", line)
        if title:
            return title.group(1)
    return ""


def _variables(value: ast.expr) -> list[str]:
    names = []
    for call in ast.walk(value):
        if isinstance(call, ast.Call) and ast.unparse(call.func) in _READERS:
            name = call.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                names.append(name.value)
    return names


def _default(value: ast.expr) -> str:
    """Give the default as one would write it in ``.env``."""
    if isinstance(value, ast.Compare):
        return f"`true` where `{ast.unparse(value.left)}` is `{ast.literal_eval(value.comparators[0])}`"
    calls = [each for each in ast.walk(value) if isinstance(each, ast.Call)]
    read = [call for call in calls if ast.unparse(call.func) in _READERS]
    if read:
        value = read[0].args[1] if len(read[0].args) > 1 else ast.Constant(None)
    if any(isinstance(part, ast.JoinedStr) for part in ast.walk(value)):
        return "made from others"
    return _shown(_evaluate(value))


def _evaluate(node: ast.expr) -> object:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    return ast.literal_eval(node)


def _shown(value: object) -> str:
    if value is None or value in ("", {}, []):
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int):
        for unit, name in _SIZES:
            if value >= unit and value % unit == 0:
                return f"`{value}` ({value // unit} {name})"
    return f"`{value}`"


def _allowed_values(tree: ast.Module) -> dict[str, str]:
    """Say in words what ``checks`` accepts; nothing for a check that the setting's own comment explains."""
    words = {
        "_boolean": "`true` or `false`",
        "_bucket": "a bucket name",
        "_http_url": "an `http://` or `https://` address",
        "_database_url": "`sqlite:///…` or `postgresql://…`",
        "_thumbs": 'JSON, `{"name": [width, height]}`',
        "_json_object": "a JSON object",
        "_families": "0 for off, or a whole number, at least 2",
        "_region": "a region's short name",
    }
    found = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "checks"
    )
    assert isinstance(found, ast.Dict)
    allowed = {}
    for key, check in zip(found.keys, found.values, strict=True):
        assert isinstance(key, ast.Constant)
        if isinstance(check, ast.Call):
            kind = "whole number" if ast.unparse(check.args[0]) == "int" else "number"
            allowed[str(key.value)] = f"a {kind}, at least {ast.unparse(check.args[1])}"
        else:
            allowed[str(key.value)] = words.get(ast.unparse(check), "")
    return allowed


# --- pages ------------------------------------------------------------------------------------------------------


def page(settings: list[Setting]) -> str:
    """Give the whole of ``docs/settings.md``."""
    parts = [INTRODUCTION]
    for section in dict.fromkeys(setting.section for setting in settings):
        mine = [setting for setting in settings if setting.section == section and setting.name not in _PLUMBING]
        read = [setting for setting in mine if setting.variables]
        fixed = [setting for setting in mine if not setting.variables and setting.what]
        if not read and not fixed:
            continue
        parts.append(f"## {section}")
        if read:
            parts.append(_table(("name", "default", "what it is", "used by"), [_row(setting) for setting in read]))
        if fixed:
            parts.append("Scrapy's own settings that differ here; only `-s` changes them:")
            rows = [(f"`{each.name}`", each.default, each.what) for each in fixed]
            parts.append(_table(("name", "here", "Scrapy's default, and why it differs"), rows))
    return "\n\n".join(parts) + "\n"


def _row(setting: Setting) -> tuple[str, ...]:
    what = setting.what
    if setting.value:
        what += f" *Write {setting.value}.*"
    others = [f"`{name}`" for name in setting.variables if name != setting.name]
    if others:
        what += f" {' and '.join(others)} in the environment wins over it."
    return f"`{setting.name}`", setting.default, what, setting.used_by


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main(arguments: list[str] | None = None) -> int:
    """Write the file, or with ``--check`` only say whether it is stale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if it is stale")
    options = parser.parse_args(arguments)
    settings = read_settings(SETTINGS.read_text("utf-8"))
    wanted = page(settings)
    if DOCS.exists() and DOCS.read_text("utf-8") == wanted:
        return 0
    if options.check:
        print(f"{DOCS.relative_to(ROOT)} is stale: run scripts/settings_docs.py", file=sys.stderr)
        return 1
    DOCS.write_text(wanted, "utf-8")
    print(f"{DOCS.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
