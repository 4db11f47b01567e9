//! Files written past the page cache: a segment is read again only at a restart, and the kernel's copy of it into fresh pages
//! would cost more than all the rest of a checkpoint.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// What such writes are aligned to, in memory and in the file; a multiple of what any disk asks for (open(2), "O_DIRECT").
const BLOCK: usize = 4096;
/// So much is written at a time.
const BUFFER: usize = 1 << 20;

/// Writes a file of these parts; it is durable afterwards, its name once the folder is flushed, too. What was there goes.
///
/// # Errors
/// The file can't be written.
pub(super) fn write(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    match write_with(path, parts, OFlags::DIRECT) {
        // Not every file system can.
        Err(error) if error.kind() == ErrorKind::InvalidInput => write_with(path, parts, OFlags::empty()),
        done => done,
    }
}

fn write_with(path: &Path, parts: &[&[u8]], flags: OFlags) -> io::Result<()> {
    let flags = flags.bits().cast_signed();
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).custom_flags(flags).open(path)?;
    let mut memory = vec![0; BUFFER + BLOCK];
    let aligned = memory.as_ptr().align_offset(BLOCK);
    let buffer = &mut memory[aligned..][..BUFFER];
    let (mut filled, mut length) = (0, 0);
    for &part in parts {
        let mut part = part;
        length += part.len() as u64;
        while !part.is_empty() {
            let (now, later) = part.split_at(part.len().min(BUFFER - filled));
            buffer[filled..filled + now.len()].copy_from_slice(now);
            (filled, part) = (filled + now.len(), later);
            if filled == BUFFER {
                write_blocks(&mut file, buffer)?;
                filled = 0;
            }
        }
    }
    // The last block is written whole, and the file cut to its length.
    write_blocks(&mut file, &buffer[..filled.next_multiple_of(BLOCK)])?;
    file.set_len(length)?;
    file.sync_all()
}

/// A write that was cut short goes on at a whole block.
fn write_blocks(file: &mut File, mut blocks: &[u8]) -> io::Result<()> {
    while !blocks.is_empty() {
        match file.write(blocks) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => blocks = &blocks[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_what_was_given_whatever_its_length_and_whatever_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segment");
        let lengths = [2 * BUFFER + 1, 0, 1, BLOCK - 1, BLOCK, BLOCK + 1, BUFFER - 1, BUFFER, BUFFER + BLOCK + 7];
        for (n, length) in lengths.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + at / 251 + n) as u8).collect();
            for cut in [0, length / 3, length] {
                let (some, others) = bytes.split_at(cut);
                for flags in [OFlags::DIRECT, OFlags::empty()] {
                    write_with(&path, &[some, others], flags).unwrap();
                    assert!(std::fs::read(&path).unwrap() == bytes, "{length} bytes, cut at {cut}, {flags:?}");
                }
            }
        }
    }
}
