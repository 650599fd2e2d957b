//! Bencode (BEP 3): strict, depth-bounded, zero-copy.
//!
//! [`decode`] turns bytes into a [`Document`]: a flat vector of 12-byte tokens over the borrowed input, walked with the
//! `Copy` cursors [`Node`], [`List`] and [`Dict`]. Nothing is copied out of the input and nothing recurses, so memory is
//! bounded by [`Limits::tokens`] and the stack by nothing the input says. [`Encoder`] writes the same format.
//!
//! Invariant: a `Document` that exists is well-formed bencode without duplicate keys, so the cursors cannot fail.
//! Dictionaries with unsorted keys are accepted, because torrents in the wild have them; everything else that BEP 3
//! forbids is an error that names its byte offset.
//!
//! Called by [`crate::metainfo`], tracker responses and the extension messages of [`crate::wire`].

mod decode;
mod encode;
mod view;

pub use decode::{
    DEPTH_MAX, DecodeError, DecodeErrorKind, Limits, TOKENS_MAX_DEFAULT, decode, decode_prefix, decode_with,
};
pub use encode::Encoder;
pub use view::{Dict, DictIter, Document, List, ListIter, Node, Value};

#[cfg(test)]
mod tests;
