"""How fast and how big, each beside a peer in the same run."""
