use super::*;
use proptest::prelude::*;

const HEX: &str = "0123456789abcdef0123456789ABCDEF01234567";

fn parse(rest: &str) -> Magnet {
    Magnet::parse(&format!("magnet:?xt=urn:btih:{HEX}{rest}")).expect("a good link")
}

#[test]
fn all_parameters() {
    let magnet = parse(
        "&dn=A+name%20%26+more&xl=12345&tr=http%3A%2F%2Ft.example%2Fannounce%3Fa%3Db%2Bc&tr.1=udp://u.example:80\
         &tr.1=udp://u.example:80&tr=wss://no.example&ws=https%3A%2F%2Fw.example%2Ff&x.pe=192.0.2.1:6881\
         &x.pe=%5B2001:db8::1%5D:51413&x.pe=peer.example.org:99&x.pe=nowhere&x.pe=1.2.3.4:0&so=4,0,2-3&unknown=1&odd",
    );
    assert_eq!(magnet.info_hash.to_string(), HEX.to_lowercase());
    assert_eq!(magnet.name.as_deref(), Some("A name & more"));
    assert_eq!(magnet.len, Some(12345));
    assert_eq!(magnet.trackers, [["http://t.example/announce?a=b+c"], ["udp://u.example:80"]]);
    assert_eq!(magnet.web_seeds, ["https://w.example/f"]);
    let peers: Vec<String> = magnet.peers.iter().map(ToString::to_string).collect();
    assert_eq!(peers, ["192.0.2.1:6881", "[2001:db8::1]:51413"]);
    assert_eq!(magnet.hosts, ["peer.example.org:99"]);
    assert_eq!(magnet.select, [0..=0, 2..=4]);
}

#[test]
fn info_hashes_in_base32_and_any_case() {
    let hash = InfoHash(*b"Hello, magnet links!");
    let text = "JBSWY3DPFQQG2YLHNZSXIIDMNFXGW4ZB";
    for text in [text.to_owned(), text.to_lowercase()] {
        let link = format!("MAGNET:?dn=x&xt.1=URN:BTIH:{text}&xt.2=urn:btmh:1220aa");
        assert_eq!(Magnet::parse(&link).expect("hybrid: the v1 name counts").info_hash, hash);
    }
}

#[test]
fn what_names_no_single_torrent_is_refused() {
    let error = |text: &str| Magnet::parse(text).expect_err("refused");
    assert_eq!(error("http://example.org"), MagnetError::NotMagnet);
    assert_eq!(error("magnet:xt=1"), MagnetError::NotMagnet);
    assert_eq!(error("magnet:?dn=x&xt=urn:sha1:AAAA"), MagnetError::NoInfoHash);
    assert_eq!(error("magnet:?xt=urn:btih:abcd"), MagnetError::BadInfoHash);
    assert_eq!(error("magnet:?xt=urn:btih:JBSWY3DPFQQG2YLHNZSXIIDMNFXGW4Z1"), MagnetError::BadInfoHash);
    assert_eq!(error(&format!("magnet:?xt=urn:btmh:1220{HEX}")), MagnetError::V2Only);
    assert_eq!(
        error(&format!("magnet:?xt=urn:btih:{HEX}&xt=urn:btih:{}", "1".repeat(40))),
        MagnetError::Several
    );
    assert_eq!(error(&format!("magnet:?dn={}", "a".repeat(MAX_MAGNET_LEN))), MagnetError::TooLong);
    for so in ["a", "", "3-1", "1,,2", "4294967295", "-1", "+1", "1-2-3"] {
        assert_eq!(error(&format!("magnet:?xt=urn:btih:{HEX}&so={so}")), MagnetError::BadSelection, "{so}");
    }
}

#[test]
fn lists_are_bounded() {
    let trackers: String = (0..1500).map(|n| format!("&tr=udp://h{n}.example:1")).collect();
    assert_eq!(parse(&trackers).trackers.len(), MAX_URLS);
    let peers: String = (1..500).map(|n| format!("&x.pe=10.0.0.1:{n}")).collect();
    assert_eq!(parse(&peers).peers.len(), MAX_PEERS);
    let seeds: String = (0..1500).map(|n| format!("&ws=http://h{n}.example/")).collect();
    assert_eq!(parse(&seeds).web_seeds.len(), MAX_URLS);
    let select = |ranges: usize| format!("magnet:?xt=urn:btih:{HEX}&so=0{}", ",0".repeat(ranges - 1));
    assert!(Magnet::parse(&select(MAX_RANGES)).is_ok());
    assert_eq!(Magnet::parse(&select(MAX_RANGES + 1)), Err(MagnetError::BadSelection));
    assert_eq!(parse(&format!("&dn={}", "é".repeat(2000))).name.expect("cut").len(), MAX_NAME_LEN);
    assert_eq!(parse("&dn=%1b[31m%00").name.as_deref(), Some("[31m"));
    assert_eq!(parse("&dn=100%&tr=http://x%2").name.as_deref(), Some("100%"));
}

#[test]
fn selections_become_priorities() {
    let torrent = crate::metainfo::build::Builder::single_file("t", 100).piece_len(16_384);
    let torrent = torrent.plan().expect("sensible").finish(&[[7; 20]]);
    let metainfo = Metainfo::parse(&torrent).expect("what was built is read");
    assert_eq!(parse("").priorities(&metainfo), None);
    assert_eq!(parse("&so=0-7").priorities(&metainfo), Some(vec![Priority::Normal]));
    assert_eq!(parse("&so=1,900000").priorities(&metainfo), Some(vec![Priority::Skip]));
    let link = Magnet::of(&metainfo).to_string();
    assert_eq!(Magnet::parse(&link).expect("our own"), Magnet::of(&metainfo));
    assert!(link.contains("&dn=t&xl=100"), "{link}");
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        hash: [u8; 20],
        name in prop::option::of("[a-zA-Zäß 0-9&=%+#/]{1,40}"),
        urls in prop::collection::hash_set("(http|https|udp)://[a-z]{1,9}(/[a-z&=?+%]{0,9})?", 0..5),
        peers in prop::collection::hash_set((any::<std::net::IpAddr>(), 1u16..), 0..5),
        len: Option<u64>,
        so in prop::collection::vec((0u32..999, 0u32..9), 0..5),
    ) {
        let name = name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        let magnet = Magnet {
            info_hash: InfoHash(hash),
            name,
            trackers: urls.into_iter().map(|url| vec![url]).collect(),
            peers: peers.into_iter().map(SocketAddr::from).collect(),
            len,
            select: merged(so.into_iter().map(|(start, len)| start..=start + len).collect()),
            ..Magnet::default()
        };
        prop_assert_eq!(Magnet::parse(&magnet.to_string()), Ok(magnet));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "magnet:\\?(xt=urn:bti[hm]:[0-9A-Za-z]{0,42}|[a-z.]{1,4}=[ -~]{0,30}|&){0,12}") {
        if let Ok(magnet) = Magnet::parse(&text) {
            prop_assert_eq!(Magnet::parse(&magnet.to_string()), Ok(magnet));
        }
    }
}
