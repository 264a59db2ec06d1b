"""What a run is, apart from crawling: its record, its outputs, its limits, and who hears of it.

A run begins with a lock, a row in ``crawl_runs`` and a job folder, and ends in this order, which
``extensions.run`` holds:

1. the items' file is closed (``outputs``);
2. the limits are looked at (``monitors``); one that is not kept makes the run at least partial;
3. the verdict is given, printed, and becomes the exit code (``extensions.verdict``);
4. items and log are uploaded (``outputs``, ``storage.outputs``); an upload that fails makes the run at least partial;
5. the row is written (``db.runs``);
6. metrics are written (``metrics``), and who wants to hear of it is told (``notices``).
"""
