//! The storage ring.
