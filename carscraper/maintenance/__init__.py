"""Work on the store and the ledger together, outside of crawls."""
