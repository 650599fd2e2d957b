//! The demonstration's data: incompressible bytes, written and hashed by several threads.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// Bytes made or read at a time.
const CHUNK_LEN: usize = 1 << 20;

/// One step of SplitMix64, which gives different chunks different bytes.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fill(seed: u64, chunk: &mut [u8]) {
    let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
    for word in chunk.chunks_mut(8) {
        let bytes = next(&mut state).to_le_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    }
}

/// Writes `chunks` MiB of noise to `path`, with one thread per CPU.
pub fn write(path: &Path, chunks: u64, seed: u64) -> io::Result<()> {
    let file = File::options().write(true).create_new(true).open(path)?;
    let next_chunk = AtomicU64::new(0);
    let work = || -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_LEN];
        loop {
            let nth = next_chunk.fetch_add(1, Ordering::Relaxed);
            if nth >= chunks {
                return Ok(());
            }
            fill(seed ^ nth, &mut chunk);
            file.write_all_at(&chunk, nth * CHUNK_LEN as u64)?;
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("writing does not panic"))
    })
}

/// SHA-256 of a file, in hexadecimal.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_LEN];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            len => hash.update(&chunk[..len]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// SHA-256 of two files, hashed at the same time.
pub fn sha256_both(one: &Path, other: &Path) -> io::Result<(String, String)> {
    std::thread::scope(|scope| {
        let first = scope.spawn(|| sha256(one));
        let second = sha256(other);
        Ok((first.join().expect("hashing does not panic")?, second?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_reproducible_and_differs_by_chunk() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let paths = ["a", "b", "c"].map(|name| dir.path().join(name));
        for (path, seed) in paths.iter().zip([1, 1, 2]) {
            write(path, 3, seed).expect("written");
        }
        let bytes = std::fs::read(&paths[0]).expect("read");
        assert_eq!(bytes.len(), 3 * CHUNK_LEN);
        assert_ne!(bytes[..CHUNK_LEN], bytes[CHUNK_LEN..2 * CHUNK_LEN]);
        let (same, again) = sha256_both(&paths[0], &paths[1]).expect("hashed");
        assert_eq!(same, again);
        assert_ne!(same, sha256(&paths[2]).expect("hashed"));
    }

    #[test]
    fn digests_are_sha256() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").expect("written");
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&path).expect("hashed"), expected);
    }
}
