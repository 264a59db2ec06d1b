"""Simulated dealer sites: real HTTP servers on loopback that behave, and misbehave, like the real ones.

* ``server.py``    the request log and the control surface every site shares, on the server of ``tests/http_server.py``
* ``faults.py``    what can go wrong with an answer, as short words (``"503"``, ``"half"``, ``"redirect:http://…"``)
* ``drifts.py``    how a site's pages change with the years: a table of names, ``site.drift = "pager-gone"``
* ``cars.py``      the invented cars: the truth a crawl is compared with
* ``photos.py``    the photo factory: real pictures, each with bytes of its own
* ``bilasolur.py`` the aggregator bilasolur.is (also ``python -m tests.dealers.bilasolur``)
* ``stubborn.py``  the same with pagers that are hard to follow, and with a list that is sorted anew

Nothing here imports ``carscraper``: a simulated site must not share a mistake with the parser it tests.
"""
