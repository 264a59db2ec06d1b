"""The only room with sessions and SQL; also the ledger of what is stored where."""
