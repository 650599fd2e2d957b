//! What must hold for any bytes given as a checkpoint, or as another client's resume file. Run by the fuzz target and
//! over the corpus by tests.

use std::sync::OnceLock;

use ccbt_protocol::checkpoint::{Checkpoint, Format, Mark, foreign};
use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::metainfo::build::{Builder, InputFile};

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    if let Ok(checkpoint) = Checkpoint::decode(data) {
        assert!(!checkpoint.have.has_any_not_in(&checkpoint.looked));
        assert!(checkpoint.bytes_done() <= checkpoint.total_len);
        for format in [Format::Binary, Format::Json] {
            assert_eq!(Checkpoint::decode(&checkpoint.encode(format)).as_ref(), Ok(&checkpoint));
        }
    }
    // rtorrent has two files: the second begins behind the first zero.
    let (first, second) = data.split_at(data.iter().position(|byte| *byte == 0).unwrap_or(data.len()));
    let metainfo = metainfo();
    for (bytes, companion) in [(data, None), (first, second.get(1..))] {
        let Ok(read) = foreign::read(bytes, companion, metainfo) else { continue };
        let claimed = read.have.clone();
        let files = [Some(Mark { len: 98_314, mtime_ns: 5_000_000_001 }), None];
        let made = read.into_checkpoint(metainfo, "/o".into(), &files, i64::MAX, 9);
        assert_eq!(made.fits(metainfo), Ok(()));
        assert!(!made.have.has_any_not_in(&claimed), "nothing is claimed that the client did not");
        assert!(made.have.count() <= 3, "nor of files that are not there");
        assert_eq!(Checkpoint::decode(&made.encode(Format::Binary)), Ok(made));
    }
}

/// Pieces 0 to 3, and 3 to 5.
fn metainfo() -> &'static Metainfo {
    static MADE: OnceLock<Metainfo> = OnceLock::new();
    MADE.get_or_init(|| {
        let file = |name: &str, len| InputFile { path: vec![name.into()], len, ..InputFile::default() };
        let files = vec![file("a", 98_314), file("b", 65_536)];
        let plan = Builder::multi_file("t", files).piece_len(32_768).plan().expect("sensible sizes");
        let hashes = vec![[7; 20]; plan.geometry().piece_count() as usize];
        Metainfo::parse(&plan.finish(&hashes)).expect("what was built is read")
    })
}
