//! What must hold for any bytes of a proxy. The first byte chooses the kind and whether there is a password, the second how
//! the rest is cut. Run by the fuzz target and over the corpus by tests.

use ccbt_protocol::proxy::{Credentials, ProxyKind, Target, Tunnel};

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    let [choice, cut, bytes @ ..] = data else { return };
    let kind = if choice & 1 == 0 { ProxyKind::Socks5 } else { ProxyKind::Http };
    let credentials = (choice & 2 != 0).then(|| Credentials::new("user", "secret").expect("good ones"));
    let target = Target::Name("t.example".to_owned(), 80);
    let mut out = Vec::new();
    let mut tunnel = Tunnel::new(kind, credentials, target, &mut out).expect("a good name");
    let step = usize::from(*cut).max(1);
    for (nth, chunk) in bytes.chunks(step).enumerate() {
        match tunnel.push(chunk, &mut out) {
            Ok(None) => {}
            Ok(Some(rest)) => {
                assert!(
                    bytes[..(nth * step + chunk.len())].ends_with(&rest),
                    "what comes through is untouched"
                );
                break;
            }
            Err(error) => {
                assert!(!error.to_string().contains("secret"));
                break;
            }
        }
    }
    assert!(out.len() < 1024, "a proxy cannot make us talk");
}
