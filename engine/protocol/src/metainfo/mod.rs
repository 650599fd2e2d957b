//! Torrent files (BEP 3, 12, 19, 27, 47): reading and making them.
