use std::io::Write;
use std::net::IpAddr;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    for (at, (name, bytes)) in files.iter().enumerate() {
        let method = if at == 0 { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn plain_and_compressed_lists_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    write("a.dat", b"001.000.000.000 - 001.000.000.255 , 000 , x\n002.0.0.0 - 002.0.0.255 , 200 , y\n");
    write("b.p2p.gz", &gzip(b"name:3.0.0.0-3.0.0.255\nbad line\n"));
    write(
        "c.zip",
        &zipped(&[("x/ipfilter.dat", b"4.0.0.0 - 4.0.0.255 , 0 , x\n"), ("y", b"2001:db8::/32\n")]),
    );
    write("d.p2b", b"\xff\xff\xff\xffP2B\x02n\0\x05\0\0\0\x05\0\0\xff");
    write(".half", b"9.0.0.0/8\n");
    let LoadedFilter { filter, report } = load(dir.path()).unwrap();
    for blocked in ["1.0.0.9", "3.0.0.9", "4.0.0.9", "5.0.0.9", "2001:db8::9"] {
        assert!(filter.blocks(ip(blocked)), "{blocked}");
    }
    for free in ["2.0.0.9", "9.0.0.9", "2001:db9::9"] {
        assert!(!filter.blocks(ip(free)), "{free}");
    }
    assert_eq!((report.files.len(), report.ranges, report.bad_lines), (4, 5, 1));
    let text = report.to_string();
    assert!(
        text.contains("5 ranges from 4 files; 1 lines were not understood: b.p2p.gz, line 2: "),
        "{text}"
    );
    assert_eq!(load(&dir.path().join("a.dat")).unwrap().report.ranges, 1);
}

#[test]
fn what_is_no_list_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("list");
    assert!(matches!(load(&path), Err(FilterError::Read { .. })), "it is not there");
    for nothing in [&b""[..], b"# only a comment\n", b"nonsense\n", b"\xff\xff\xff\xffP2B\x09"] {
        fs::write(&path, nothing).unwrap();
        assert!(matches!(load(&path), Err(FilterError::Empty { .. })), "{nothing:?}");
    }
    let good = gzip(b"1.0.0.0/8\n2.0.0.0/8\n");
    fs::write(&path, &good[..good.len() - 6]).unwrap();
    assert!(matches!(load(&path), Err(FilterError::Read { .. })), "a file that is cut short");
    fs::write(&path, b"PK\x03\x04 no archive").unwrap();
    assert!(matches!(load(&path), Err(FilterError::Read { .. })));
    fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("not a regular file"));
}

#[test]
fn a_bomb_is_given_up() {
    // 64 MiB of one byte in about 64 KiB, and all of them in one line.
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 1 << 20);
    let mut left = 1 << 20;
    let mut builder = Builder::default();
    let error = read(&mut buffered(MultiGzDecoder::new(&bomb[..]), &mut left), &mut builder).unwrap_err();
    assert!(error.to_string().contains("expands to more than"), "{error}");
}
