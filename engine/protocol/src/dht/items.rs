//! Values that others have stored with us, and what makes a value the right one (BEP 44).
//!
//! Invariant: whatever is in the store has been checked against its name: hash, or key and signature.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha1::{Digest, Sha1};

use super::id::NodeId;
use super::krpc::{Item, SALT_MAX, Signed, VALUE_MAX, code};

/// Values at most: 1.2 KB each.
pub const ITEMS_MAX: usize = 1000;
/// How long one is kept that is not stored again.
const LIFE: Duration = Duration::from_secs(2 * 60 * 60);

impl Item {
    /// An immutable one. `value` is bencoded; `None` when it is longer than [`VALUE_MAX`].
    pub fn immutable(value: Vec<u8>) -> Option<Self> {
        (value.len() <= VALUE_MAX).then_some(Self { value, signed: None })
    }

    /// A mutable one, signed with the key whose seed is `secret`. `None` when value or salt is too long.
    pub fn mutable(secret: &[u8; 32], salt: &[u8], seq: i64, value: Vec<u8>) -> Option<Self> {
        if value.len() > VALUE_MAX || salt.len() > SALT_MAX {
            return None;
        }
        let key = SigningKey::from_bytes(secret);
        let signature = key.sign(&signed_bytes(salt, seq, &value)).to_bytes();
        let signed = Signed { key: key.verifying_key().to_bytes(), salt: salt.to_vec(), seq, signature };
        Some(Self { value, signed: Some(signed) })
    }

    /// Its name: where it is stored.
    pub fn target(&self) -> NodeId {
        match &self.signed {
            None => NodeId(Sha1::digest(&self.value).into()),
            Some(signed) => mutable_target(&signed.key, &signed.salt),
        }
    }

    /// Whether the signature is right; immutable ones need none.
    pub fn is_authentic(&self) -> bool {
        let Some(signed) = &self.signed else { return true };
        let Ok(key) = VerifyingKey::from_bytes(&signed.key) else { return false };
        let bytes = signed_bytes(&signed.salt, signed.seq, &self.value);
        key.verify_strict(&bytes, &Signature::from_bytes(&signed.signature)).is_ok()
    }
}

/// The name of what is signed with `key` under `salt`.
pub fn mutable_target(key: &[u8; 32], salt: &[u8]) -> NodeId {
    NodeId(Sha1::new().chain_update(key).chain_update(salt).finalize().into())
}

/// What is signed: salt, sequence number and value, as they stand in a bencoded dictionary.
fn signed_bytes(salt: &[u8], seq: i64, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if !salt.is_empty() {
        bytes.extend_from_slice(format!("4:salt{}:", salt.len()).as_bytes());
        bytes.extend_from_slice(salt);
    }
    bytes.extend_from_slice(format!("3:seqi{seq}e1:v").as_bytes());
    bytes.extend_from_slice(value);
    bytes
}

/// See the module.
#[derive(Debug, Default)]
pub struct ItemStore {
    items: BTreeMap<NodeId, (Item, Instant)>,
}

impl ItemStore {
    /// Values.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The value of that name.
    pub fn get(&self, target: &NodeId) -> Option<&Item> {
        self.items.get(target).map(|(item, _)| item)
    }

    /// Stores one. Errors: code and text of KRPC.
    pub fn put(&mut self, now: Instant, item: Item, cas: Option<i64>) -> Result<(), (i64, &'static str)> {
        let target = item.target();
        if let (Some(new), Some((Item { signed: Some(old), value }, _))) =
            (&item.signed, self.items.get(&target))
        {
            if cas.is_some_and(|cas| cas != old.seq) {
                return Err((code::CAS_MISMATCH, "another value was stored meanwhile"));
            }
            if new.seq < old.seq || new.seq == old.seq && *value != item.value {
                return Err((code::SEQ_TOO_LOW, "the sequence number is too low"));
            }
        }
        // Last, as it costs most.
        if !item.is_authentic() {
            return Err((code::BAD_SIGNATURE, "the signature is wrong"));
        }
        if !self.items.contains_key(&target) && self.items.len() >= ITEMS_MAX {
            let oldest = self.items.iter().min_by_key(|(_, (_, at))| *at).map(|(target, _)| *target);
            oldest.and_then(|target| self.items.remove(&target));
        }
        self.items.insert(target, (item, now));
        Ok(())
    }

    /// Forgets what was not stored again.
    pub fn expire(&mut self, now: Instant) {
        self.items.retain(|_, (_, at)| now.saturating_duration_since(*at) < LIFE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hexadecimal"))
    }

    fn vector(salt: &[u8], signature: &str) -> Item {
        let key = hex("77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548");
        let signed = Signed { key, salt: salt.to_vec(), seq: 1, signature: hex(signature) };
        Item { value: b"12:Hello World!".to_vec(), signed: Some(signed) }
    }

    #[test]
    fn the_test_vectors_of_bep_44() {
        let plain = vector(
            b"",
            "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff\
             1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01",
        );
        assert!(plain.is_authentic());
        assert_eq!(plain.target(), NodeId(hex("4a533d47ec9c7d95b1ad75f576cffc641853b750")));
        let salted = vector(
            b"foobar",
            "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17d\
             df9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08",
        );
        assert!(salted.is_authentic());
        assert_eq!(salted.target(), NodeId(hex("411eba73b6f087ca51a3795d9c8c938d365e32c1")));
        let immutable = Item::immutable(b"12:Hello World!".to_vec()).expect("short");
        assert_eq!(immutable.target(), NodeId(hex("e5f96f6f38320f0f33959cb4d3d656452117aadb")));
    }

    #[test]
    fn what_we_sign_is_authentic_and_nothing_else_is() {
        let item = Item::mutable(&[7; 32], b"salt", 5, b"1:x".to_vec()).expect("short");
        assert!(item.is_authentic());
        let change = |change: fn(&mut Item)| {
            let mut item = item.clone();
            change(&mut item);
            item.is_authentic()
        };
        assert!(!change(|item| item.value = b"1:y".to_vec()));
        assert!(!change(|item| item.signed.as_mut().expect("signed").seq = 6));
        assert!(!change(|item| item.signed.as_mut().expect("signed").salt.clear()));
        assert!(!change(|item| item.signed.as_mut().expect("signed").key = [1; 32]));
        assert_eq!(Item::mutable(&[7; 32], &[0; 65], 5, b"1:x".to_vec()), None);
        assert_eq!(Item::immutable(vec![0; 1001]), None);
    }

    #[test]
    fn newer_ones_replace_older_ones() {
        let (mut store, now) = (ItemStore::default(), Instant::now());
        let item = |seq, value: &[u8]| Item::mutable(&[7; 32], b"", seq, value.to_vec()).expect("short");
        assert_eq!(store.put(now, item(5, b"1:x"), Some(3)), Ok(()), "there is nothing to compare with");
        assert_eq!(store.put(now, item(5, b"1:x"), None), Ok(()), "the same again");
        let code_of = |result: Result<(), (i64, &'static str)>| result.expect_err("refused").0;
        assert_eq!(code_of(store.put(now, item(5, b"1:y"), None)), code::SEQ_TOO_LOW);
        assert_eq!(code_of(store.put(now, item(4, b"1:x"), None)), code::SEQ_TOO_LOW);
        assert_eq!(code_of(store.put(now, item(6, b"1:x"), Some(4))), code::CAS_MISMATCH);
        let mut forged = item(7, b"1:x");
        forged.value = b"1:z".to_vec();
        assert_eq!(code_of(store.put(now, forged, None)), code::BAD_SIGNATURE);
        assert_eq!(store.put(now, item(6, b"1:y"), Some(5)), Ok(()));
        let target = item(6, b"1:y").target();
        assert_eq!(store.get(&target).map(|item| item.value.as_slice()), Some(&b"1:y"[..]));
        store.expire(now + LIFE);
        assert!(store.is_empty());
    }

    #[test]
    fn bounded() {
        let (mut store, now) = (ItemStore::default(), Instant::now());
        for n in 0..ITEMS_MAX + 5 {
            let item = Item::immutable(format!("i{n}e").into_bytes()).expect("short");
            store.put(now + Duration::from_secs(n as u64), item, None).expect("taken");
        }
        assert_eq!(store.len(), ITEMS_MAX);
        assert!(
            store.get(&Item::immutable(b"i0e".to_vec()).expect("short").target()).is_none(),
            "the oldest"
        );
    }
}
