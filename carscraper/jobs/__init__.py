"""More than one machine: crawls wait in a queue in PostgreSQL, and workers run them, each as a process of its own.

The queue is procrastinate's. A job is one ``scrapy crawl``. What a crawl is, it stays: it has its row in
``crawl_runs``, its verdict and its exit code, and it can be run by hand. What a worker adds is who runs it when, and
that somebody does.
"""
