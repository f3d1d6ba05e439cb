"""How small upstreams are made: stock models learn from the embedded corpus, or go on with a user's own speech."""
