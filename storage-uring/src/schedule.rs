//! Order and batching of disk operations.
