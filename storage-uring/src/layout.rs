//! Piece to file spans.
