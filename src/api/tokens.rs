//! Bearer tokens: `tokens.json` in the state folder, which holds their hashes and never a token.
//!
//! A token is `cse_` and 256 random bits in hexadecimal digits, so one round of SHA-256 hides it: there is nothing to guess
//! as there is with passwords, for which hashes have to be slow. The prefix lets scanners find tokens that leaked. Its id,
//! the hash's first digits, may be told to anybody.
//!
//! Knows no route and no role's permissions.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clawdstrike_telemetry::time;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::roles::is_plain_name;
use crate::hex;

/// What every token begins with.
pub const PREFIX: &str = "cse_";
/// Tokens that may be in the file; those that have expired count until they are revoked.
pub const MAX_TOKENS: usize = 1_000;
/// The file in the state folder.
const FILE: &str = "tokens.json";
/// The largest file that is read: [`MAX_TOKENS`] fit in it.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The version of the file that is written.
const VERSION: u32 = 1;
/// Digits of a hash that make an id.
const ID_DIGITS: usize = 12;

/// What is kept of a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The first digits of the hash.
    pub id: String,
    /// Who holds it.
    pub name: String,
    /// What its holder may do.
    pub role: String,
    /// SHA-256 of the whole token, as hexadecimal digits.
    sha256: String,
    /// Microseconds since 1970, as RFC 3339.
    #[serde(with = "instant")]
    pub created: i64,
    /// From then on it is refused.
    #[serde(with = "instant::option", default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
}

impl Token {
    /// Whether it is refused at this time.
    pub fn has_expired(&self, now: i64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    tokens: Vec<Token>,
}

/// The token that this text is, if it is one of them; expired ones too. Takes as long for a wrong text as for a right one.
pub(super) fn find<'a>(tokens: &'a [Token], text: &str) -> Option<&'a Token> {
    let hash = digest(text);
    let mut found = None;
    for token in tokens {
        if bool::from(token.sha256.as_bytes().ct_eq(hash.as_bytes())) {
            found = Some(token);
        }
    }
    found
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// A token as it is told once.
pub struct Told {
    /// The token itself.
    pub secret: String,
    /// What is kept.
    pub token: Token,
}

/// The tokens of one state folder.
#[derive(Clone, Debug)]
pub struct Tokens {
    path: PathBuf,
}

impl Tokens {
    /// Those of this state folder; nothing is read yet.
    pub fn of(state: &Path) -> Tokens {
        Tokens { path: state.join(FILE) }
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tokens; none if there is no file.
    ///
    /// # Errors
    /// The file can't be read, is none of ours, or others than its owner may write to it.
    pub fn read(&self) -> Result<Vec<Token>, String> {
        let said = |why: String| format!("tokens \"{}\": {why}", self.path.display());
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(said(e.to_string())),
        };
        let mode = file.metadata().map_err(|e| said(e.to_string()))?.mode();
        if mode & 0o022 != 0 {
            return Err(said(format!("others may write to it (mode {:o}): chmod 600 it", mode & 0o777)));
        }
        let mut text = String::new();
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|e| said(e.to_string()))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(said(format!(
                "longer than {MAX_FILE_BYTES} bytes: restore it, or delete it and create tokens anew"
            )));
        }
        let content: Content = serde_json::from_str(&text)
            .map_err(|e| said(format!("{e}; restore it, or delete it and create tokens anew")))?;
        match content.version {
            VERSION => Ok(content.tokens),
            version => {
                Err(said(format!("of version {version}, and this program reads version {VERSION}: use a later one")))
            }
        }
    }

    /// Makes a token; what is told of it here is told nowhere else.
    ///
    /// # Errors
    /// The name is taken or none, there are too many, or the file can't be written.
    pub fn create(&self, name: &str, role: &str, now: i64, expires: Option<i64>) -> Result<Told, String> {
        if !is_plain_name(name) {
            return Err(format!(
                "\"{name}\" is no name of a token: expected up to 64 letters, digits, \"-\", \"_\", \".\" and \"@\""
            ));
        }
        let mut random = [0u8; 32];
        getrandom::fill(&mut random).map_err(|e| format!("the system gives no random bits: {e}"))?;
        let secret = format!("{PREFIX}{}", hex::encode(random));
        let sha256 = digest(&secret);
        let id = sha256[..ID_DIGITS].to_owned();
        let token = Token { id, name: name.to_owned(), role: role.to_owned(), sha256, created: now, expires };
        self.change(|tokens| {
            if tokens.iter().any(|t| t.name == name || t.id == name) {
                return Err(format!("there is a token \"{name}\" already: revoke it first, or choose another name"));
            }
            if tokens.len() >= MAX_TOKENS {
                return Err(format!(
                    "there are {MAX_TOKENS} tokens, and no more are allowed: revoke those that nobody uses"
                ));
            }
            tokens.push(token.clone());
            Ok(())
        })?;
        Ok(Told { secret, token })
    }

    /// Takes a token, by its name or id, out of force; gives what was kept of it.
    ///
    /// # Errors
    /// There is none, or the file can't be written.
    pub fn revoke(&self, which: &str) -> Result<Token, String> {
        self.change(|tokens| {
            let at = tokens.iter().position(|t| t.name == which || t.id == which);
            let at = at.ok_or_else(|| {
                format!("there is no token \"{which}\": `clawdstrike-edr token list` has names and ids")
            })?;
            Ok(tokens.remove(at))
        })
    }

    /// Reads, changes and replaces the file, as the only one that does.
    fn change<T>(&self, change: impl FnOnce(&mut Vec<Token>) -> Result<T, String>) -> Result<T, String> {
        let said =
            |e: std::io::Error| format!("tokens \"{}\": {e}; run this as the engine's user", self.path.display());
        let folder = self.path.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(said)?;
        let lock = self.path.with_extension("lock");
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(lock).map_err(said)?;
        lock.lock().map_err(said)?;
        let mut tokens = self.read()?;
        let changed = change(&mut tokens)?;
        let content = Content { version: VERSION, tokens };
        let text = serde_json::to_string_pretty(&content).map_err(|e| e.to_string())?;
        self.replace(folder, &text).map_err(said)?;
        Ok(changed)
    }

    /// A reader sees the old file or the new one, and after a power loss one of both is there.
    fn replace(&self, folder: &Path, text: &str) -> std::io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        // One that a killed command left may have had another mode.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        File::open(folder)?.sync_all()
    }

    /// What tells one file from the one that replaced it.
    pub(super) fn stamp(&self) -> Stamp {
        let told = std::fs::metadata(&self.path).ok()?;
        Some((told.dev(), told.ino(), told.mtime(), told.mtime_nsec(), told.len(), told.mode()))
    }
}

/// See [`Tokens::stamp`]; `None`: there is no file.
pub(super) type Stamp = Option<(u64, u64, i64, i64, u64, u32)>;

/// Times as texts.
mod instant {
    use super::time;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(at: &i64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&time::format(*at))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<i64, D::Error> {
        let text = String::deserialize(d)?;
        time::parse(&text).ok_or_else(|| D::Error::custom(format!("\"{text}\" is no time in RFC 3339")))
    }

    pub(super) mod option {
        use super::{Deserializer, Serializer};

        pub(in super::super) fn serialize<S: Serializer>(at: &Option<i64>, s: S) -> Result<S::Ok, S::Error> {
            match at {
                Some(at) => super::serialize(at, s),
                None => s.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<i64>, D::Error> {
            super::deserialize(d).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Tokens) {
        let folder = tempfile::tempdir().expect("a folder");
        let tokens = Tokens::of(&folder.path().join("state"));
        (folder, tokens)
    }

    #[test]
    fn only_hashes_are_kept_and_only_the_owner_may_read_them() {
        let (_folder, tokens) = folder();
        let told = tokens.create("ci", "security_engineer", 5_000_000, Some(6_000_000)).expect("a token");
        assert!(told.secret.starts_with("cse_") && told.secret.len() == 68, "{}", told.secret.len());
        let text = std::fs::read_to_string(tokens.path()).expect("a file");
        assert!(!text.contains(&told.secret[4..]), "the token itself is kept");
        assert_eq!(std::fs::metadata(tokens.path()).expect("a file").mode() & 0o777, 0o600);
        let kept = tokens.read().expect("tokens");
        assert_eq!(kept, std::slice::from_ref(&told.token));
        assert_eq!(find(&kept, &told.secret), Some(&told.token));
        assert_eq!(find(&kept, &told.secret[..67]), None);
        assert_eq!(find(&kept, &told.token.sha256), None, "a stolen hash is no token");
        assert!(told.token.has_expired(6_000_000) && !told.token.has_expired(5_999_999));
    }

    #[test]
    fn tokens_are_revoked_by_name_or_id_and_names_are_unique() {
        let (_folder, tokens) = folder();
        let first = tokens.create("a", "administrator", 0, None).expect("a token");
        assert!(tokens.create("a", "administrator", 0, None).is_err_and(|e| e.contains("\"a\" already")));
        assert!(tokens.create("a b", "administrator", 0, None).is_err_and(|e| e.contains("no name")));
        tokens.create("b", "administrator", 0, None).expect("a token");
        tokens.revoke(&first.token.id).expect("revoked by id");
        tokens.revoke("b").expect("revoked by name");
        assert!(tokens.revoke("b").is_err_and(|e| e.contains("no token \"b\"")));
        assert_eq!(tokens.read(), Ok(Vec::new()));
    }

    #[test]
    fn a_file_that_is_damaged_or_open_to_others_is_refused_by_name() {
        let (_folder, tokens) = folder();
        tokens.create("a", "administrator", 0, None).expect("a token");
        std::fs::set_permissions(tokens.path(), Permissions::from_mode(0o620)).expect("a mode");
        assert!(tokens.read().is_err_and(|e| e.contains("tokens.json") && e.contains("chmod 600")));
        std::fs::write(tokens.path(), "{\"version\": 2, \"tokens\": []}").expect("written");
        std::fs::set_permissions(tokens.path(), Permissions::from_mode(0o600)).expect("a mode");
        assert!(tokens.read().is_err_and(|e| e.contains("version 2")));
        std::fs::write(tokens.path(), "{\"version\"").expect("written");
        assert!(tokens.read().is_err_and(|e| e.contains("restore it")));
        assert!(tokens.create("b", "administrator", 0, None).is_err(), "a damaged file is not overwritten");
    }
}
