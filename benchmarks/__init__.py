"""What keeping a photo costs: our crawl beside stock Scrapy and beside downloading alone, in one run.

``python -m benchmarks`` (``make bench``) prints the tables. Every contender crawls the same simulated site (a process
of its own), with the same spider's pages, unthrottled, on loopback; who stores, stores on the same real S3 server.

* ``contenders.py``  who is measured, and with which settings
* ``ours.py``, ``plain.py``  Scrapy settings: carscraper's own, and Scrapy's defaults
* ``spiders.py``, ``pipelines.py``  the same pages without carscraper's pipelines, and a pipeline that keeps nothing
* ``meter.py``       a Scrapy extension: when the crawl began and ended, its CPU time, its peak memory
* ``arena.py``       the services, and one measured crawl
* ``report.py``      tables and verdicts
"""
