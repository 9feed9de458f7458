"""Records on disk and on the Hub: shards, streams, cards, checks."""
