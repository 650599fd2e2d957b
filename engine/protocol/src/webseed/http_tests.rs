use std::time::{Duration, SystemTime};

use super::*;

const WANTED: Wanted = Wanted { start: 10, end: 15, file_len: 20 };

fn judge(head: &str) -> Result<Verdict, HttpFault> {
    let text = head.replace('\n', "\r\n") + "\r\n\r\n";
    let (head, len) = Head::parse(text.as_bytes())?.expect("a whole head");
    assert_eq!(len, text.len());
    head.judge(WANTED, SystemTime::UNIX_EPOCH)
}

/// Reads a body in steps of `step` bytes.
fn read(head: &str, wire: &[u8], step: usize) -> Result<(Vec<u8>, bool), HttpFault> {
    let Verdict::Data(mut body) = judge(head)? else { panic!("no data") };
    let (mut at, mut data) = (0, Vec::new());
    while body.left() > 0 || !body.is_over() {
        let bytes = &wire[at..wire.len().min(at + step)];
        if bytes.is_empty() {
            break;
        }
        let ahead = body.data_ahead().min(bytes.len() as u64) as usize;
        if ahead == 0 {
            at += body.control(bytes)?;
            continue;
        }
        let skipped = body.skip().min(ahead as u64) as usize;
        data.extend(&bytes[skipped..ahead]);
        body.took(ahead as u64);
        at += ahead;
        if body.left() == 0 && body.data_ahead() == 0 && body.is_over() {
            break;
        }
    }
    Ok((data, body.is_reusable()))
}

#[test]
fn the_range_that_was_asked_for_is_taken() {
    let range = "HTTP/1.1 206 Partial Content\nContent-Range: bytes 10-14/20\nContent-Length: 5";
    for step in [1, 3, 100] {
        assert_eq!(read(range, b"abcde", step), Ok((b"abcde".to_vec(), true)));
    }
    let close = format!("{range}\nConnection: close");
    assert_eq!(read(&close, b"abcde", 9), Ok((b"abcde".to_vec(), false)));
    let old = range.replace("1.1", "1.0");
    assert_eq!(read(&old, b"abcde", 9).map(|(_, reusable)| reusable), Ok(false));
    let unknown = "HTTP/1.1 206 x\nContent-Range: bytes 10-14/*\nTransfer-Encoding: chunked";
    for step in [1, 2, 100] {
        let wire = b"2;x=y\r\nab\r\n3\r\ncde\r\n0\r\nTrailer: 1\r\n\r\n";
        assert_eq!(read(unknown, wire, step), Ok((b"abcde".to_vec(), true)), "in steps of {step}");
    }
}

#[test]
fn a_whole_file_is_taken_from_the_wanted_place_on() {
    let whole = "HTTP/1.1 200 OK\nContent-Length: 20";
    let file: Vec<u8> = (0..20).collect();
    for step in [1, 7, 100] {
        assert_eq!(read(whole, &file, step), Ok((file[10..].to_vec(), true)));
    }
    let Ok(Verdict::Data(body)) = judge(whole) else { panic!("no data") };
    assert!(!body.is_ranged());
    assert_eq!(judge("HTTP/1.1 200 OK\nContent-Length: 21"), Err(HttpFault::WrongLength));
    let until_close = "HTTP/1.1 200 OK";
    assert_eq!(read(until_close, &file, 9), Ok((file[10..].to_vec(), false)));
}

#[test]
fn wrong_answers_are_refused() {
    let range = |rest: &str| judge(&format!("HTTP/1.1 206 x\n{rest}"));
    assert_eq!(range("Content-Length: 5"), Err(HttpFault::WrongRange), "several ranges, or none");
    assert_eq!(range("Content-Range: bytes 9-14/20"), Err(HttpFault::WrongRange));
    assert_eq!(range("Content-Range: bytes 10-15/20"), Err(HttpFault::WrongRange));
    assert_eq!(range("Content-Range: bytes 10-14/21"), Err(HttpFault::WrongLength));
    assert_eq!(range("Content-Range: lines 10-14/20"), Err(HttpFault::WrongRange));
    assert_eq!(range("Content-Range: bytes 10-14/20\nContent-Length: 6"), Err(HttpFault::BadLength));
    let good = "Content-Range: bytes 10-14/20";
    assert_eq!(range(&format!("{good}\nContent-Encoding: gzip")), Err(HttpFault::Encoded));
    assert_eq!(range(&format!("{good}\nTransfer-Encoding: gzip, chunked")), Err(HttpFault::Encoded));
    assert_eq!(range(&format!("{good}\nContent-Length: 5\nContent-Length: 6")), Err(HttpFault::BadLength));
    assert_eq!(range(&format!("{good}\nContent-Length: +5")), Err(HttpFault::BadLength));
    assert_eq!(judge("HTTP/1.1 302 Found"), Err(HttpFault::BadRedirect));
    let place = Verdict::Redirect("/x".to_owned());
    assert_eq!(judge("HTTP/1.1 302 Found\nLocation: /x"), Ok(place));
    assert_eq!(Head::parse(&[b'x'; 40]), Err(HttpFault::NotHttp));
    let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'a'; HEAD_MAX]].concat();
    assert_eq!(Head::parse(&endless), Err(HttpFault::HeadTooLong));
    assert_eq!(Head::parse(&endless[..300]), Ok(None));
}

#[test]
fn broken_chunks_are_refused() {
    let chunked = "HTTP/1.1 206 x\nContent-Range: bytes 10-14/20\nTransfer-Encoding: chunked";
    for (wire, fault) in [
        (b"x\r\n".as_slice(), HttpFault::BadChunk),
        (b"\r\n", HttpFault::BadChunk),
        (b"2\nab", HttpFault::BadChunk),
        (b"2\r\nabc\r\n", HttpFault::BadChunk),
        (b"-2\r\n", HttpFault::BadChunk),
        (b"ffffffffffffffffff\r\n", HttpFault::BadChunk),
        (b"6\r\n", HttpFault::WrongLength),
        (b"2\r\nab\r\n0\r\n\r\n", HttpFault::Truncated),
        (&[b'1'; 2000], HttpFault::BadChunk),
    ] {
        assert_eq!(read(chunked, wire, 7), Err(fault), "{}", wire.escape_ascii());
    }
}

#[test]
fn servers_say_when_to_come_again() {
    let refused = |rest: &str| match judge(&format!("HTTP/1.1 503 x\n{rest}")) {
        Ok(Verdict::Refused(503, wait)) => wait.map(|wait| wait.as_secs()),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused("X: y"), None);
    assert_eq!(refused("Retry-After: 7"), Some(7));
    assert_eq!(refused("Retry-After: 99999999"), Some(3600), "an hour at most");
    assert_eq!(refused("Retry-After: Thu, 01 Jan 1970 00:01:40 GMT"), Some(100));
    assert_eq!(refused("Retry-After: soon"), None);
    assert_eq!(RETRY_MAX, Duration::from_secs(3600));
}
