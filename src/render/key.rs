//! Hashes of keys and values. Attackers choose what is hashed, so hashes are keyed with a secret that the cluster draws at
//! its start; nothing that outlives a run may depend on them.

use clawdstrike_rules::plan::Field;
use xxhash_rust::xxh3::{xxh3_64_with_secret, xxh3_128_with_secret};

use super::field::{Fields, scalar_bytes, with_group_field};
use super::rules::{ById, SESSION};

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

    /// The key of a group; `None` if the event takes no part: a field is absent, a list or an object.
    pub fn group(
        &self,
        by: ById,
        tenant: &str,
        fields: &mut Fields<'_>,
        list: &[Field],
        scratch: &mut Vec<u8>,
    ) -> Option<u128> {
        scratch.clear();
        scratch.extend_from_slice(&by.to_le_bytes());
        scratch.extend_from_slice(&(tenant.len() as u32).to_le_bytes());
        scratch.extend_from_slice(tenant.as_bytes());
        for field in list {
            with_group_field(fields, field, |value| scalar_bytes(value, scratch))?;
        }
        Some(self.wide(scratch))
    }
}
