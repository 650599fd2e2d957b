//! Which piece and block next.
