//! Lists as they come from files, piece by piece.
//!
//! Role: [`read`] takes a whole list from anything that is read: lines of text, or P2B (PeerGuardian's binary form,
//! versions 1 to 3) if it begins so. Invariants: memory is the ranges and one line of [`LINE_MAX`] bytes, however long the
//! list; what is wrong is counted and its first lines kept, and ends only a binary list, which cannot be read on.

use std::fmt;
use std::io::{self, BufRead, Read};

use super::{Builder, Line, LineError, Range, TooMany, parse_line};

/// Bytes of a line that are looked at; a longer one is wrong.
const LINE_MAX: usize = 4096;
/// Wrong lines that are kept.
const BAD_KEPT: usize = 5;
/// What P2B begins with, before its version.
const P2B: &[u8] = b"\xff\xff\xff\xffP2B";

/// A line, or record of P2B, that says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Counted from 1.
    pub number: u64,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.number, self.why)
    }
}

/// What was found in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Ranges that are blocked, before they were merged.
    pub ranges: u64,
    /// Ranges that the list itself allows (DAT with a level above 127).
    pub allowed: u64,
    /// Lines that say nothing known.
    pub bad: u64,
    /// The first of these.
    pub first_bad: Vec<BadLine>,
}

impl Reading {
    fn bad(&mut self, number: u64, why: impl fmt::Display) {
        self.bad += 1;
        if self.first_bad.len() < BAD_KEPT {
            self.first_bad.push(BadLine { number, why: why.to_string() });
        }
    }

    /// Takes in what was found in another list.
    pub fn add(&mut self, other: Self) {
        self.ranges += other.ranges;
        self.allowed += other.allowed;
        self.bad += other.bad;
        self.first_bad.extend(other.first_bad);
        self.first_bad.truncate(BAD_KEPT);
    }
}

/// Reads a list to its end and adds its ranges. Errors: of `input`, or there are too many ranges ([`TooMany`] inside).
pub fn read(input: &mut impl BufRead, builder: &mut Builder) -> io::Result<Reading> {
    let mut reading = Reading::default();
    let mut start = Vec::new();
    // A line that is shorter than the mark has no mark in it.
    input.by_ref().take(P2B.len() as u64 + 1).read_to_end(&mut start)?;
    match start.strip_prefix(P2B) {
        Some([version @ 1..=3]) => p2b(*version, input, builder, &mut reading)?,
        Some(_) => reading.bad(1, "P2B of an unknown version"),
        None => text(&mut (&start[..]).chain(input), builder, &mut reading)?,
    }
    Ok(reading)
}

fn take(range: Range, builder: &mut Builder, reading: &mut Reading) -> io::Result<()> {
    reading.ranges += 1;
    builder.add(range).map_err(|TooMany| io::Error::other(TooMany))
}

fn text(input: &mut impl BufRead, builder: &mut Builder, reading: &mut Reading) -> io::Result<()> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let len = input.by_ref().take(LINE_MAX as u64).read_until(b'\n', &mut line)?;
        if len == 0 {
            break;
        }
        if len == LINE_MAX && line.last() != Some(&b'\n') && input.skip_until(b'\n')? > 0 {
            reading.bad(number, format_args!("it is longer than {LINE_MAX} bytes"));
            continue;
        }
        let line = if number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line) } else { &line };
        match parse_line(line) {
            Ok(Line::Empty) => {}
            Ok(Line::Block(range)) => take(range, builder, reading)?,
            Ok(Line::Allow) => reading.allowed += 1,
            Err(why) => reading.bad(number, why),
        }
    }
    Ok(())
}

fn p2b(
    version: u8,
    input: &mut impl BufRead,
    builder: &mut Builder,
    reading: &mut Reading,
) -> io::Result<()> {
    if version < 3 {
        for number in 1.. {
            if input.skip_until(0)? == 0 {
                break;
            }
            if !record(number, input, builder, reading)? {
                break;
            }
        }
        return Ok(());
    }
    let Some(names) = word(input)? else { return cut_short(1, reading) };
    for _ in 0..names {
        if input.skip_until(0)? == 0 {
            return cut_short(1, reading);
        }
    }
    let Some(ranges) = word(input)? else { return cut_short(1, reading) };
    for number in 1..=u64::from(ranges) {
        if word(input)?.is_none() {
            return cut_short(number, reading);
        }
        if !record(number, input, builder, reading)? {
            break;
        }
    }
    Ok(())
}

/// Reads one range; `false`: the list ends in it.
fn record(
    number: u64,
    input: &mut impl BufRead,
    builder: &mut Builder,
    reading: &mut Reading,
) -> io::Result<bool> {
    let (Some(first), Some(last)) = (word(input)?, word(input)?) else {
        cut_short(number, reading)?;
        return Ok(false);
    };
    if first <= last {
        take(Range::V4(first, last), builder, reading)?;
    } else {
        reading.bad(number, LineError::Order);
    }
    Ok(true)
}

fn cut_short(number: u64, reading: &mut Reading) -> io::Result<()> {
    reading.bad(number, "the list is cut short");
    Ok(())
}

/// A number in network byte order; `None`: the end.
fn word(input: &mut impl Read) -> io::Result<Option<u32>> {
    let mut bytes = [0; 4];
    match input.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(u32::from_be_bytes(bytes))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}
