//! What shards and storage say to each other.
