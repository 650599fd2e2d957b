//! The storage thread.
