//! Hashes of keys and values. Attackers choose what is hashed, so hashes are keyed with a secret that the cluster draws
//! once and keeps with its checkpoint, whose keys are such hashes (xxh3 as its specification says, on every machine).

use xxhash_rust::xxh3::{xxh3_64_with_secret, xxh3_128_with_secret};

use super::field::{Fields, Place, scalar_bytes};
use clawdstrike_rules::plan::Field;

use super::rules::SESSION;

/// Builds maps whose keys are hashes of [`Hasher`] already.
pub type Hashed = std::hash::BuildHasherDefault<Low>;

/// Takes the low half of such a key.
#[derive(Default)]
pub struct Low(u64);

impl std::hash::Hasher for Low {
    fn write(&mut self, bytes: &[u8]) {
        // Not for other keys; still each byte counts.
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Length of the secret in bytes.
pub const SECRET_BYTES: usize = 192;

/// Hashes with the cluster's secret.
#[derive(Clone)]
pub struct Hasher {
    secret: Box<[u8]>,
}

impl Hasher {
    /// With this secret of [`SECRET_BYTES`].
    pub fn new(secret: &[u8]) -> Hasher {
        Hasher { secret: secret.into() }
    }

    /// 128 bits: for keys whose collision would mix two groups.
    #[inline]
    pub fn wide(&self, bytes: &[u8]) -> u128 {
        xxh3_128_with_secret(bytes, &self.secret)
    }

    /// 64 bits, never 0: for values within a group.
    #[inline]
    pub fn narrow(&self, bytes: &[u8]) -> u64 {
        xxh3_64_with_secret(bytes, &self.secret).max(1)
    }

    /// The key of a session.
    pub fn session(&self, tenant: &str, agent: &str, session: &str, scratch: &mut Vec<u8>) -> u128 {
        scratch.clear();
        scratch.extend_from_slice(&SESSION.to_le_bytes());
        for part in [tenant, agent, session] {
            scratch.extend_from_slice(&(part.len() as u32).to_le_bytes());
            scratch.extend_from_slice(part.as_bytes());
        }
        self.wide(scratch)
    }

    /// An event_id's identity within its session; never 0.
    pub fn identity(&self, session: u128, event_id: &str, scratch: &mut Vec<u8>) -> u64 {
        scratch.clear();
        scratch.extend_from_slice(&session.to_le_bytes());
        scratch.extend_from_slice(event_id.as_bytes());
        self.narrow(scratch)
    }

    /// What stands for a `by` list in keys: the same after a restart, whatever number the list has then.
    pub fn tag(&self, by: &[Field]) -> u64 {
        self.narrow(&serde_json::to_vec(by).unwrap_or_default())
    }

    /// The key of a group of the `by` list with this tag; `None` if the event takes no part: a field is absent, a list or an
    /// object.
    pub fn group(
        &self,
        tag: u64,
        tenant: &str,
        fields: &mut Fields<'_>,
        list: &[Place],
        scratch: &mut Vec<u8>,
    ) -> Option<u128> {
        scratch.clear();
        scratch.extend_from_slice(&tag.to_le_bytes());
        scratch.extend_from_slice(&(tenant.len() as u32).to_le_bytes());
        scratch.extend_from_slice(tenant.as_bytes());
        for place in list {
            fields.with(place, |value| scalar_bytes(value, scratch))?;
        }
        Some(self.wide(scratch))
    }
}
