//! The peer wire: messages, handshakes, incremental parsing, scatter receive.
