"""What ``scrapy newdealer`` makes files from, read with :mod:`importlib.resources`."""
