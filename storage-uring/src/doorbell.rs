//! An eventfd that is written only when the other side sleeps.
