//! Cursors: where the next page of a list begins, as a text that says nothing to its bearer.
//!
//! A cursor holds the place of the last row that was shown, and is bound to its list: to the route, the filter and the order.
//! It is a checksum that binds it, not a secret: a place tells nothing that a filter wouldn't, so nothing is gained by making
//! one up. It holds as long as the list does, also after a restart.

use std::borrow::Cow;
use std::fmt::Debug;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

use super::error::ApiError;
use crate::hex;
use crate::view::MAX_LIMIT;

/// Bytes of each of the two checksums.
const CHECK: usize = 8;
/// The longest cursor: a place has three ids of up to 256 bytes.
const MAX_TEXT: usize = 4096;

/// Which part of a list is asked for.
#[derive(Deserialize, JsonSchema)]
pub(super) struct Paging {
    /// Rows at most.
    #[serde(default)]
    limit: Limit,
    /// `next` of the page before: begins after its last row. Bound to the route, the filter and the sort.
    #[schemars(length(max = MAX_TEXT))]
    cursor: Option<String>,
}

/// A number of rows, at most [`MAX_LIMIT`].
#[derive(Clone, Copy, Serialize)]
struct Limit(usize);

impl Default for Limit {
    fn default() -> Limit {
        Limit(100)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Limit, D::Error> {
        let expected = |more| D::Error::custom(format_args!("a whole number, at most {MAX_LIMIT}{more}"));
        match u64::deserialize(deserializer).map_err(|_| expected(""))?.try_into() {
            Ok(limit) if limit <= MAX_LIMIT => Ok(Limit(limit)),
            _ => Err(expected("; `cursor` gets the next rows")),
        }
    }
}

impl JsonSchema for Limit {
    fn schema_name() -> Cow<'static, str> {
        "Limit".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "minimum": 0, "maximum": MAX_LIMIT})
    }
}

/// The cursor of the page after; null: this was the last. Rows whose place in the order stays are shown once, whatever comes and
/// goes between two pages.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Next(Option<String>);

/// The part of a list that was asked for.
pub(super) struct Page<P> {
    limit: usize,
    /// The place after which it begins; `None`: the list's first.
    pub(super) after: Option<P>,
    list: [u8; CHECK],
}

impl<P: Serialize + DeserializeOwned> Page<P> {
    /// `list` tells this list from all others: its route, filter and order.
    pub(super) fn of(paging: Paging, list: &impl Debug) -> Result<Page<P>, ApiError> {
        let list = check(format!("{list:?}").as_bytes());
        let after = paging.cursor.map(|text| read(&text, list)).transpose()?;
        Ok(Page { limit: paging.limit.0, after, list })
    }

    /// Rows to ask for: one more than are shown tells whether there are more.
    pub(super) fn rows(&self) -> usize {
        if self.limit == 0 { 0 } else { self.limit + 1 }
    }

    /// Leaves the rows that are shown; gives the cursor of the next page, if there is one. `place` tells a row's.
    pub(super) fn cut<R>(&self, rows: &mut Vec<R>, place: impl Fn(&R) -> P) -> Next {
        let more = self.limit > 0 && rows.len() > self.limit;
        rows.truncate(self.limit);
        Next(rows.last().filter(|_| more).map(|last| write(&place(last), self.list)))
    }
}

fn check(bytes: &[u8]) -> [u8; CHECK] {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    std::array::from_fn(|n| hash[n])
}

/// In hexadecimal: what it is checked by, the list, the place.
fn write(place: &impl Serialize, list: [u8; CHECK]) -> String {
    // Places are texts and numbers, for which postcard has words.
    let place = postcard::to_allocvec(place).unwrap_or_default();
    let body = [&list[..], &place].concat();
    hex::encode([&check(&body)[..], &body].concat())
}

fn read<P: DeserializeOwned>(text: &str, list: [u8; CHECK]) -> Result<P, ApiError> {
    let altered = || {
        invalid(
            "\"cursor\" isn't one that this API gave: it was altered or cut",
            "send `next` of the page before as it is, or leave it out to begin anew",
        )
    };
    let bytes = Some(text).filter(|text| text.len() <= MAX_TEXT).and_then(hex::decode).ok_or_else(altered)?;
    let (sum, body) = bytes.split_at_checked(CHECK).ok_or_else(altered)?;
    let (of, place) = body.split_at_checked(CHECK).ok_or_else(altered)?;
    if sum != check(body) {
        return Err(altered());
    }
    if of != list {
        return Err(invalid(
            "\"cursor\" is of another list: another route, filter or sort",
            "ask for the next page with the parameters of the first, `limit` apart",
        ));
    }
    postcard::from_bytes(place).map_err(|_| altered())
}

fn invalid(message: &str, hint: &str) -> ApiError {
    ApiError::new(axum::http::StatusCode::BAD_REQUEST, "invalid_cursor", message, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_holds_for_its_list_alone_and_only_unaltered() {
        let (mine, other) = (check(b"mine"), check(b"other"));
        let text = write(&(7u64, "a\u{202e}"), mine);
        assert_eq!(read::<(u64, String)>(&text, mine).expect("its list"), (7, "a\u{202e}".to_owned()));
        let refusal = |text: &str, list| read::<(u64, String)>(text, list).expect_err(text).message().to_owned();
        assert!(refusal(&text, other).contains("another list"));
        for at in 0..text.len() {
            let digit = if text.as_bytes()[at] == b'0' { "1" } else { "0" };
            let altered = format!("{}{digit}{}", &text[..at], &text[at + 1..]);
            assert!(refusal(&altered, mine).contains("altered"), "{altered}");
        }
        for text in ["", "0", "zz", "é", &text[..text.len() - 2], &"0".repeat(MAX_TEXT + 2)] {
            assert!(refusal(text, mine).contains("altered"), "{text}");
        }
    }
}
