"""What is done to the bucket, and between bucket and ledger, from outside of a crawl."""
