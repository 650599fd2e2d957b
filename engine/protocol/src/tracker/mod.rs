//! Trackers: codecs and the announce scheduler.
