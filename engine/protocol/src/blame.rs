//! Ban by block: finds which peer lied in a piece that failed its hash.
