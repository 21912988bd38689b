"""Images that would not fit into memory decoded: shards of encoded ones, decoded batch by batch."""
