//! Rate meters and token buckets.
