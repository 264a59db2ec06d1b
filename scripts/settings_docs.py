"""Makes ``docs/settings.md`` and ``.env.example`` from the table of settings; ``--check`` only says what is stale."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from carscraper.settings.table import SECTIONS, Setting  # noqa: E402 - behind the path

INTRODUCTION = """\
# Settings

<!-- Made from carscraper/settings/table.py by scripts/settings_docs.py: change that table, then run the script. -->

Highest first: `-s NAME=value` on the command line (and scrapyd's `setting=NAME=value`), the environment, the file
`.env` beside `scrapy.cfg`, the default given here. `CARSCRAPER_ENV_FILE` names another file than `.env`, and
`.env.example` is one to begin with: it has what is set most often. A variable that is set to nothing counts as not
set, except {empty}.

Relative paths (`var/…`) begin at the folder in which `scrapy` is started. A wrong value ends the crawl before
anything is fetched, with one sentence that names the setting and exit code 4. So does a name that is nearly one of
these or Scrapy's (a letter is missing, or it is in small letters), wherever it is written, the name of a setting that
earlier versions had, and a file that `CARSCRAPER_ENV_FILE` names and that is not there. Other unknown names are
ignored in `.env`, which other programs may share, and warned of in `-s`.

Keep secrets out of `-s`: everybody on the machine can read a command line. Put them in `.env`, in the environment,
or use a profile or a role.

Scrapy's own settings that differ here, and why, are in `carscraper/settings/__init__.py`; only `-s` changes them.
"""

EXAMPLE = """\
# Copy to .env, take away the # before a line, and write your value. -s NAME=value on the command line and the
# environment win over this file. Lines with # show the defaults, or an example where there is none. Values with spaces
# or quotes go between single quotes. These are the settings that are set most often: docs/settings.md has all.
"""


def written(value: object) -> str:
    """Return a default as one would write it in ``.env``.

    >>> [written(value) for value in (None, {}, True, 0.5, "a")]
    ['', '', 'true', '0.5', 'a']
    """
    if value is None or value == {}:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def row(setting: Setting) -> str:
    """Return the line of a table."""
    text = written(setting.default)
    default = f"`{text}`" if text else "–"
    for unit, name in ((1024**3, "GiB"), (1024**2, "MiB")):
        if isinstance(setting.default, int) and setting.default >= unit and setting.default % unit == 0:
            default += f" ({setting.default // unit} {name})"
            break
    what = setting.help + (f" *Write {setting.kind.words}.*" if setting.kind.words else "")
    if setting.variable:
        what += f" `{setting.variable}` in the environment wins over it."
    return f"| `{setting.name}` | {default} | {what} |".replace("\\", "\\\\")


def page() -> str:
    """Return the whole of ``docs/settings.md``."""
    empty = [f"`{each.name}`" for section in SECTIONS.values() for each in section if each.empty]
    parts = [INTRODUCTION.format(empty=" and ".join([", ".join(empty[:-1]), empty[-1]]))]
    for title, settings in SECTIONS.items():
        parts.append("\n".join([f"\n## {title}\n", "| name | default | what it is |", "| --- | --- | --- |"]))
        parts += [row(setting) for setting in settings]
        parts[-1] += "\n"
    return "\n".join(parts).replace("\n\n\n", "\n\n")


def example() -> str:
    """Return the whole of ``.env.example``."""
    parts = [EXAMPLE]
    for title, settings in SECTIONS.items():
        chosen = [each for each in settings if each.common or each.example]
        if chosen:
            parts.append(f"# ── {title} ──\n")
        for setting in chosen:
            comment = textwrap.wrap(setting.help.replace("`", ""), 118, break_on_hyphens=False)
            lines = [f"# {line}" for line in comment]
            value = setting.example or written(setting.default)
            parts.append("\n".join([*lines, f"#{setting.name}={value}"]) + "\n")
    return "\n".join(parts)


def main() -> int:
    """Write the files, or with ``--check`` only say which are stale."""
    stale = 0
    for name, text in (("docs/settings.md", page()), (".env.example", example())):
        path = ROOT / name
        if path.exists() and path.read_text("utf-8") == text:
            continue
        if "--check" in sys.argv[1:]:
            stale += 1
            print(f"{name} is stale: run scripts/settings_docs.py", file=sys.stderr)
        else:
            path.write_text(text, "utf-8")
            print(f"{name} written")
    return int(stale > 0)


if __name__ == "__main__":
    sys.exit(main())
