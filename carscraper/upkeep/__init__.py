"""Work on the store and the ledger together: audit, discovery, deletion, uploads of folders, tiers."""
