//! For `#[serde(with)]`: what holds JSON values travels between processes as JSON text, since the mesh's own encoding
//! (bincode) doesn't tell what a value is.

use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes a value as the bytes of its JSON text.
pub fn serialize<T: Serialize, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serde_json::to_vec(value).map_err(S::Error::custom)?.serialize(serializer)
}

/// Reads what [`serialize`] wrote.
pub fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    serde_json::from_slice(&Vec::<u8>::deserialize(deserializer)?).map_err(D::Error::custom)
}
