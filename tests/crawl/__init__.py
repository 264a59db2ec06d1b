"""The main flow, told by real crawls: ``scrapy crawl bilasolur`` as a process, against a simulated site."""
