//! How many requests to keep outstanding at a peer.
