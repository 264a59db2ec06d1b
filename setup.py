"""For ``scrapyd-deploy``, which builds its egg with ``setup.py bdist_egg``, and else writes a ``setup.py`` of its own.

What the package is stands in pyproject.toml. It is built in a folder of its own: nothing is left in the checkout, and
no module that is gone from the project comes back from an earlier ``build/``.
"""

import tempfile

from setuptools import setup

with tempfile.TemporaryDirectory(prefix="carscraper-egg-") as folder:
    setup(options={"build": {"build_base": f"{folder}/build"}, "egg_info": {"egg_base": folder}})
