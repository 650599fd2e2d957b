//! Page-aligned memory for pieces, under a hard ceiling.
