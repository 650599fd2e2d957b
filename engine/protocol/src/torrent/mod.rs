//! One torrent: picker, peers and choker together.
