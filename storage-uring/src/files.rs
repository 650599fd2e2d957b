//! Opening, preallocating and closing files.
