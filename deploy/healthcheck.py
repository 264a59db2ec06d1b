"""For the containers' health checks: ``healthcheck.py scrapyd`` or ``healthcheck.py database``; 0 means well.

Standard library only, and one line about what is wrong. No password is printed.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import subprocess
import sys


def scrapyd() -> str | None:
    """Ask scrapyd's API for its state, as somebody who knows the password; give what is wrong."""
    user, password = (os.environ.get(name, "") for name in ("SCRAPYD_USERNAME", "SCRAPYD_PASSWORD"))
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("SCRAPYD_HTTP_PORT") or 6800), timeout=5)
    try:
        connection.request("GET", "/daemonstatus.json", headers={"Authorization": f"Basic {token}"})
        answer = connection.getresponse()
        told = json.loads(answer.read()) if answer.status == 200 else {}
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"scrapyd does not answer: {error}"
    finally:
        connection.close()
    return None if told.get("status") == "ok" else f"scrapyd answers {answer.status} {answer.reason}"


def database() -> str | None:
    """Ask for the version of the tables; none at all is well, the first crawl makes them. Give what is wrong."""
    command = ["scrapy", "database", "version", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=25)  # noqa: S603 - ours
    if done.returncode:
        return (done.stderr.strip() or "the database does not answer").splitlines()[-1]
    told = json.loads(done.stdout)
    if told["version"] in {None, told["needed"]}:
        return None
    return f"the tables are of version {told['version']}, this program needs {told['needed']}"


if __name__ == "__main__":
    trouble = {"scrapyd": scrapyd, "database": database}[sys.argv[1]]()
    if trouble:
        sys.exit(trouble)
