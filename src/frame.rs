//! Frames: what a checkpoint's segments hold. Everything that the dataflow must not lose is a frame: the checkpoint keeps
//! them without knowing what is in them, the dataflow reads them back without knowing where they were.
//!
//! A frame, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0 | kind |
//! | 1-3 | zero |
//! | 4-7 | length of the body |
//! | 8-23 | key |
//! | 24-31 | epoch in which it was written |
//! | 32-39 | event time until which it matters, microseconds since 1970 |
//! | 40- | body |

/// Bytes before the body.
const HEADER: usize = 40;

/// What a frame is, and so how long it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An event that a group remembers: until its time. Many of one key.
    Hit,
    /// A group without its events: the latest of its key. An empty body: it is no more.
    Group,
    /// A version of an alert in the live view: the latest of its key. An empty body: it has left.
    Alert,
    /// A change of a session that nothing else tells again: until stores have taken its epoch.
    Leaving,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Hit, Kind::Group, Kind::Alert, Kind::Leaving];

    /// Only the latest of a key counts.
    pub fn is_latest_only(self) -> bool {
        matches!(self, Kind::Group | Kind::Alert)
    }
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// Whose. Its upper half says which worker it goes to.
    pub key: u128,
    /// In which epoch it was written.
    pub epoch: u64,
    /// Until which event time it matters; [`i64::MAX`]: for ever.
    pub until: i64,
    /// What it says.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// Appends the frame.
    pub fn write(&self, out: &mut Vec<u8>) {
        let body = |out: &mut Vec<u8>| out.extend_from_slice(self.body);
        write_with(out, self.kind, self.key, self.epoch, self.until, body);
    }
}

/// Appends a frame whose body is written in place.
pub fn write_with(out: &mut Vec<u8>, kind: Kind, key: u128, epoch: u64, until: i64, body: impl FnOnce(&mut Vec<u8>)) {
    let mut header = [0u8; HEADER];
    header[0] = kind as u8;
    header[8..24].copy_from_slice(&key.to_le_bytes());
    header[24..32].copy_from_slice(&epoch.to_le_bytes());
    header[32..40].copy_from_slice(&until.to_le_bytes());
    let start = out.len();
    out.extend_from_slice(&header);
    body(out);
    let length = (out.len() - start - HEADER) as u32;
    out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
}

/// The frames of a piece, in order. What comes after the first that isn't whole is [`Torn`].
pub fn read(bytes: &[u8]) -> Frames<'_> {
    Frames { rest: bytes }
}

/// A frame isn't whole.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame isn't whole")]
pub struct Torn;

/// See [`read`].
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    fn split(&mut self) -> Option<Frame<'a>> {
        let (header, rest) = self.rest.split_at_checked(HEADER)?;
        let kind = *Kind::ALL.get(usize::from(header[0]))?;
        let mut fields = Fields(&header[4..]);
        let length = fields.u32()? as usize;
        let (key, epoch, until) = (fields.u128()?, fields.u64()?, fields.i64()?);
        let (body, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(Frame { kind, key, epoch, until, body })
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, Torn>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let frame = self.split().ok_or(Torn);
        if frame.is_err() {
            self.rest = &[];
        }
        Some(frame)
    }
}

/// Reads little-endian numbers and short texts off the front of some bytes; `None` once there are too few.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }
    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    /// Eight bytes, signed.
    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }
    /// Sixteen bytes.
    pub fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }
    /// A text behind its length in one byte.
    pub fn text(&mut self) -> Option<&'a str> {
        let length = self.u8()?;
        let (head, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        std::str::from_utf8(head).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_written_and_tells_of_what_is_cut_off() {
        let frames = [
            Frame { kind: Kind::Hit, key: 1 << 77, epoch: 3, until: -5, body: b"one" },
            Frame { kind: Kind::Leaving, key: u128::MAX, epoch: u64::MAX, until: i64::MAX, body: b"" },
        ];
        let mut bytes = Vec::new();
        frames.iter().for_each(|f| f.write(&mut bytes));
        assert_eq!(read(&bytes).collect::<Result<Vec<_>, _>>().as_deref(), Ok(frames.as_slice()));
        for end in 1..bytes.len() {
            let found: Vec<_> = read(&bytes[..end]).collect();
            let whole = if end >= HEADER + 3 { 1 } else { 0 };
            assert_eq!(found.iter().filter(|f| f.is_ok()).count(), whole, "cut at {end}");
            assert_eq!(found.last().is_some_and(Result::is_err), end != HEADER + 3, "cut at {end}");
        }
    }
}
