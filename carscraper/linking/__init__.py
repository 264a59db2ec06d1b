"""One car, many sites: the listings of one car are linked. ``docs/one-car-many-sites.md`` has the rules for people."""
