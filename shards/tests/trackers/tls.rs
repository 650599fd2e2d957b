//! HTTPS trackers.

use std::sync::Arc;

use super::*;
use futures_rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use futures_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned, crypto};

/// A tracker with a certificate of its own for `names`. Gives its port and its certificate as PEM.
fn tracker(names: &[&str], answer: impl Fn(&str, &mut dyn Write) + Send + 'static) -> (u16, Vec<u8>) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certified = rcgen::generate_simple_self_signed(names).unwrap();
    let pem = certified.cert.pem().into_bytes();
    let chain = vec![CertificateDer::from(certified.cert.der().to_vec())];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            let head = read_head(&mut stream);
            if !head.is_empty() {
                answer(&head, &mut stream);
                let _ = stream.flush();
            }
            // The connection just ends here, without TLS's goodbye, as with many servers.
        }
    });
    (port, pem)
}

fn trusting(pem: &[u8]) -> TrackerClientConfig {
    TrackerClientConfig { extra_roots_pem: vec![pem.to_vec()], ..TrackerClientConfig::default() }
}

#[test]
fn extra_root_is_trusted() {
    let (port, pem) =
        tracker(&["localhost", "127.0.0.1"], |_, mut stream| respond(&mut stream, "200 OK", "", COMPACT));
    for host in ["localhost", "127.0.0.1"] {
        let response = ask(trusting(&pem), &format!("https://{host}:{port}/announce")).unwrap();
        assert_eq!(response.peers, compact_peers(), "{host}");
    }
}

#[test]
fn answer_may_end_without_goodbye() {
    let (port, pem) = tracker(&["localhost"], |_, stream| {
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        stream.write_all(COMPACT).unwrap();
    });
    assert_eq!(ask(trusting(&pem), &format!("https://localhost:{port}/")).unwrap().peers, compact_peers());
    let (port, pem) = tracker(&["localhost"], |_, stream| {
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        stream.write_all(&COMPACT[..COMPACT.len() - 9]).unwrap();
    });
    let cut = ask(trusting(&pem), &format!("https://localhost:{port}/")).unwrap_err();
    assert_eq!(cut, TrackerError::Malformed);
}

#[test]
fn strangers_are_not_trusted() {
    let (port, _) = tracker(&["localhost"], |_, _| panic!("a request was sent to an impostor"));
    let error = ask_default(&format!("https://localhost:{port}/announce")).unwrap_err();
    assert!(matches!(&error, TrackerError::Tls { host, .. } if host == "localhost"), "{error:?}");
    assert_showable(&error);
}

#[test]
fn certificate_must_be_for_the_host() {
    let (port, pem) = tracker(&["elsewhere.example"], |_, _| panic!("a request was sent to an impostor"));
    let error = ask(trusting(&pem), &format!("https://localhost:{port}/announce")).unwrap_err();
    assert!(matches!(&error, TrackerError::Tls { .. }), "{error:?}");
}

#[test]
fn plain_http_on_the_port_is_no_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        respond(&mut stream, "400 Bad Request", "", b"");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let error = ask_default(&url).unwrap_err();
    assert!(matches!(error, TrackerError::Tls { .. }), "{error:?}");
}

#[test]
fn unusable_extra_roots_are_told() {
    let garbled = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let (port, _) = tracker(&["localhost"], |_, _| {});
    for pem in [&b"nonsense"[..], garbled] {
        let error = ask(trusting(pem), &format!("https://localhost:{port}/")).unwrap_err();
        assert!(matches!(error, TrackerError::ExtraRoot { .. }), "{error:?}");
    }
}

#[test]
fn redirect_from_https_to_http_is_refused() {
    let server = WebServer::start(|_, stream| respond(stream, "200 OK", "", COMPACT));
    let location = format!("Location: {}\r\n", server.url());
    let (port, pem) =
        tracker(&["localhost"], move |_, mut stream| respond(&mut stream, "302 Found", &location, b""));
    let error = ask(trusting(&pem), &format!("https://localhost:{port}/")).unwrap_err();
    assert!(matches!(error, TrackerError::Redirect { .. }), "{error:?}");
    assert!(server.heads.try_recv().is_err(), "nothing was sent in the clear");
}
