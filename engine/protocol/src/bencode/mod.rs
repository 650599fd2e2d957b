//! Bencode (BEP 3): strict, depth-bounded, zero-copy.
