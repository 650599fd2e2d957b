//! Deterministic test data: trees of files whose bytes follow from their path, and the check that a copy equals them.
//!
//! Owner: the test. Invariant: the same shape has the same bytes everywhere, and no two files or pages look alike, so a
//! block that lands in the wrong place changes a hash.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// A named tree of files, or one file if `files` has a single entry with an empty path.
pub struct Payload {
    name: String,
    files: Vec<PayloadFile>,
}

/// One file of a payload, as a torrent lists it.
pub struct PayloadFile {
    /// Components below the top-level folder; empty for a single-file payload.
    pub path: Vec<String>,
    /// Its content.
    pub bytes: Arc<[u8]>,
    /// Padding of BEP 47: zeros that are part of the pieces and never on disk.
    pub pad: bool,
}

impl Payload {
    /// One file called `name` of `len` bytes.
    pub fn single(name: &str, len: usize) -> Self {
        let bytes = noise(seed_of(name), len).into();
        Self { name: name.to_owned(), files: vec![PayloadFile { path: Vec::new(), bytes, pad: false }] }
    }

    /// A folder called `name` with one file for each `(path, len)`, in that order; folders are separated by `/`.
    pub fn tree(name: &str, files: &[(&str, usize)]) -> Self {
        let files = files.iter().map(|&(path, len)| PayloadFile {
            path: path.split('/').map(str::to_owned).collect(),
            bytes: noise(seed_of(path), len).into(),
            pad: false,
        });
        Self { name: name.to_owned(), files: files.collect() }
    }

    /// The same files, each but the last followed by a padding file (BEP 47) up to the next multiple of `piece_len`.
    pub fn padded(self, piece_len: usize) -> Self {
        let count = self.files.len();
        let mut files = Vec::new();
        for (index, file) in self.files.into_iter().enumerate() {
            let ragged = file.bytes.len() % piece_len;
            files.push(file);
            if ragged != 0 && index + 1 < count {
                let len = piece_len - ragged;
                let path = vec![".pad".to_owned(), len.to_string()];
                files.push(PayloadFile { path, bytes: vec![0; len].into(), pad: true });
            }
        }
        Self { name: self.name, files }
    }

    /// The tree most tests use: pieces straddle files, files smaller than a block and empty ones between them, nested
    /// folders, names with spaces and beyond ASCII, and `bulk` bytes of ballast that no piece length divides.
    pub fn straddling(name: &str, bulk: usize) -> Self {
        Self::tree(
            name,
            &[
                ("a/first.bin", 300_001),
                ("a/b/c/three blocks less seven.bin", 3 * 16_384 - 7),
                ("empty.dat", 0),
                ("one", 1),
                ("bulk/ballast.bin", bulk + 4_097),
                ("bulk/zw\u{f6}lf.txt", 12),
                ("also empty", 0),
                ("last/tail.bin", 70_001),
            ],
        )
    }

    /// The name of the top-level file or folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this is one file without a folder around it.
    pub fn is_single(&self) -> bool {
        matches!(self.files.as_slice(), [only] if only.path.is_empty())
    }

    /// Every file in torrent order.
    pub fn files(&self) -> impl Iterator<Item = &PayloadFile> {
        self.files.iter()
    }

    /// All files' bytes in a row: what the pieces are cut from. Copies nothing for a single file.
    pub fn concatenated(&self) -> Arc<[u8]> {
        match self.files.as_slice() {
            [only] => Arc::clone(&only.bytes),
            files => {
                let mut all = Vec::with_capacity(self.len());
                files.iter().for_each(|file| all.extend_from_slice(&file.bytes));
                all.into()
            }
        }
    }

    /// Total bytes.
    pub fn len(&self) -> usize {
        self.files.iter().map(|file| file.bytes.len()).sum()
    }

    /// Whether the payload has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the tree below `dir`.
    pub fn write_to(&self, dir: &Path) {
        for file in self.real_files() {
            let path = self.path_in(dir, file);
            let parent = path.parent().expect("a payload file has a parent");
            fs::create_dir_all(parent)
                .unwrap_or_else(|error| panic!("cannot make {}: {error}", parent.display()));
            fs::write(&path, &file.bytes)
                .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        }
    }

    /// Compares the SHA-256 of every file below `dir` with ours, and that the payload's folder holds nothing else.
    ///
    /// Panics with a list of all differences.
    pub fn assert_equal_in(&self, dir: &Path) {
        self.compare_in(dir, false);
    }

    /// Like [`Payload::assert_equal_in`] for a client that makes no empty files (Transmission 3).
    pub fn assert_equal_but_for_empty_files_in(&self, dir: &Path) {
        self.compare_in(dir, true);
    }

    fn compare_in(&self, dir: &Path, may_lack_empty: bool) {
        let mut wrong: Vec<String> = Vec::new();
        let mut known = BTreeSet::new();
        for file in self.real_files() {
            let path = self.path_in(dir, file);
            if may_lack_empty && file.bytes.is_empty() && !path.exists() {
                continue;
            }
            let want: [u8; 32] = Sha256::digest(&file.bytes).into();
            match sha256_of(&path) {
                Ok(found) if found == want => {}
                Ok(_) => {
                    wrong.push(format!("{} differs (expected {} bytes)", path.display(), file.bytes.len()))
                }
                Err(error) => wrong.push(format!("{}: {error}", path.display())),
            }
            known.insert(path);
        }
        if !self.is_single() {
            let strangers =
                files_below(&dir.join(&self.name)).into_iter().filter(|path| !known.contains(path));
            wrong.extend(strangers.map(|path| format!("{} is not part of the payload", path.display())));
        }
        assert!(wrong.is_empty(), "the copy in {} is wrong:\n{}", dir.display(), wrong.join("\n"));
    }

    /// Where the file at `index` (in torrent order) lies below `dir`.
    pub fn path_of(&self, index: usize, dir: &Path) -> PathBuf {
        self.path_in(dir, &self.files[index])
    }

    fn real_files(&self) -> impl Iterator<Item = &PayloadFile> {
        self.files.iter().filter(|file| !file.pad)
    }

    fn path_in(&self, dir: &Path, file: &PayloadFile) -> PathBuf {
        let mut path = dir.join(&self.name);
        path.extend(&file.path);
        path
    }
}

/// Every regular file below `dir`, sorted; empty if `dir` is missing.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.map(|entry| entry.expect("a folder of the test can be listed")) {
        if entry.file_type().expect("a file of the test has a type").is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// `len` bytes that look random and follow from `seed` (splitmix64).
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = vec![0; len];
    for chunk in bytes.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
    bytes
}

/// FNV-1a: only has to give different files different bytes.
fn seed_of(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn sha256_of(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut reader = BufReader::with_capacity(1 << 20, fs::File::open(path)?);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return Ok(hasher.finalize().into());
        }
        hasher.update(&buffer[..read]);
    }
}
