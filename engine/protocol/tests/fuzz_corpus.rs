//! Runs every file of the fuzz corpora through the function that its fuzz target calls, so that findings stay fixed on
//! machines without a fuzzer.

use std::path::Path;

#[path = "../fuzz/entry/bencode.rs"]
mod bencode;
#[path = "../fuzz/entry/checkpoint.rs"]
mod checkpoint;
#[path = "../fuzz/entry/dht.rs"]
mod dht;
#[path = "../fuzz/entry/fetching.rs"]
mod fetching;
#[path = "../fuzz/entry/ipfilter.rs"]
mod ipfilter;
#[path = "../fuzz/entry/magnet.rs"]
mod magnet;
#[path = "../fuzz/entry/metainfo.rs"]
mod metainfo;
#[path = "../fuzz/entry/mse.rs"]
mod mse;
#[path = "../fuzz/entry/pex.rs"]
mod pex;
#[path = "../fuzz/entry/proxy.rs"]
mod proxy;
#[path = "../fuzz/entry/scatter.rs"]
mod scatter;
#[path = "../fuzz/entry/torrent.rs"]
mod torrent;
#[path = "../fuzz/entry/tracker_http.rs"]
mod tracker_http;
#[path = "../fuzz/entry/tracker_udp.rs"]
mod tracker_udp;
#[path = "../fuzz/entry/utp.rs"]
mod utp;
#[path = "../fuzz/entry/webseed.rs"]
mod webseed;
#[path = "../fuzz/entry/wire.rs"]
mod wire;

/// Feeds each file of `fuzz/corpus/<target>` to `run`; says which one it was when that panics.
fn run_corpus(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).expect("the corpus is part of the repository");
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("the corpus can be listed").path();
        let bytes = std::fs::read(&path).expect("the corpus can be read");
        println!("{}", path.display());
        run(&bytes);
        count += 1;
    }
    assert!(count >= 5, "{count} files in {}", folder.display());
}

#[test]
fn bencode_corpus() {
    run_corpus("bencode", bencode::run);
}

#[test]
fn checkpoint_corpus() {
    run_corpus("checkpoint", checkpoint::run);
}

#[test]
fn dht_corpus() {
    run_corpus("dht", dht::run);
}

#[test]
fn metainfo_corpus() {
    run_corpus("metainfo", metainfo::run);
}

#[test]
fn webseed_corpus() {
    run_corpus("webseed", webseed::run);
}

#[test]
fn wire_corpus() {
    run_corpus("wire", wire::run);
}

#[test]
fn proxy_corpus() {
    run_corpus("proxy", proxy::run);
}

#[test]
fn tracker_http_corpus() {
    run_corpus("tracker_http", tracker_http::run);
}

#[test]
fn tracker_udp_corpus() {
    run_corpus("tracker_udp", tracker_udp::run);
}

#[test]
fn mse_corpus() {
    run_corpus("mse", mse::run);
}

#[test]
fn utp_corpus() {
    run_corpus("utp", utp::run);
}

#[test]
fn torrent_corpus() {
    run_corpus("torrent", torrent::run);
}

#[test]
fn magnet_corpus() {
    run_corpus("magnet", magnet::run);
}

#[test]
fn ipfilter_corpus() {
    run_corpus("ipfilter", ipfilter::run);
}

#[test]
fn pex_corpus() {
    run_corpus("pex", pex::run);
}

#[test]
fn fetching_corpus() {
    run_corpus("fetching", fetching::run);
}

/// Without a fuzzer a few thousand random inputs, and changed corpus files, are better than none.
#[test]
fn random_inputs() {
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    type Target = (&'static str, fn(&[u8]));
    let targets: [Target; 12] = [
        ("dht", dht::run),
        ("checkpoint", checkpoint::run),
        ("wire", wire::run),
        ("proxy", proxy::run),
        ("tracker_http", tracker_http::run),
        ("tracker_udp", tracker_udp::run),
        ("torrent", torrent::run),
        ("utp", utp::run),
        ("magnet", magnet::run),
        ("ipfilter", ipfilter::run),
        ("pex", pex::run),
        ("fetching", fetching::run),
    ];
    for (target, run) in targets {
        let files = std::fs::read_dir(folder.join(target)).expect("the corpus is part of the repository");
        let mut seeds: Vec<_> = files.map(|entry| entry.expect("listed").path()).collect();
        seeds.sort();
        for path in seeds {
            let seed = std::fs::read(&path).expect("the corpus can be read");
            for _ in 0..20 {
                let mut bytes = seed.clone();
                for _ in 0..1 + next() % 8 {
                    let at = next() % bytes.len().max(1);
                    match next() % 3 {
                        0 if at < bytes.len() => bytes[at] = next() as u8,
                        1 => bytes.truncate(bytes.len().max(at)),
                        _ => bytes
                            .splice(at.min(bytes.len())..at.min(bytes.len()), [next() as u8])
                            .for_each(drop),
                    }
                }
                run(&bytes);
            }
        }
        for _ in 0..100 {
            let bytes: Vec<u8> = (0..next() % 3000).map(|_| next() as u8).collect();
            run(&bytes);
        }
    }
}

#[test]
fn scatter_corpus() {
    run_corpus("scatter", scatter::run);
}
