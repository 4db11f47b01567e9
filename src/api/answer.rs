//! What answers of several routes have in common. Knows no route.

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::alert::{self, Alert};
use crate::session::{self, SessionView};

/// The answer holds for this epoch and all before it, and nothing after.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub(super) struct AsOf(pub(super) u64);

/// A version of an alert, with its revision.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub(super) struct Version(
    #[serde(serialize_with = "version")]
    #[schemars(with = "alert::Shown")]
    pub(super) Alert,
);

/// An alert as it would be: only a load gives revisions.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub(super) struct Proposed(
    #[serde(serialize_with = "proposed")]
    #[schemars(with = "alert::Shown")]
    pub(super) Alert,
);

/// One life of a session.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub(super) struct Life(
    #[serde(serialize_with = "life")]
    #[schemars(with = "session::Shown")]
    pub(super) SessionView,
);

fn version<S: Serializer>(alert: &Alert, serializer: S) -> Result<S::Ok, S::Error> {
    alert.shown_version().serialize(serializer)
}

fn proposed<S: Serializer>(alert: &Alert, serializer: S) -> Result<S::Ok, S::Error> {
    alert.shown().serialize(serializer)
}

fn life<S: Serializer>(session: &SessionView, serializer: S) -> Result<S::Ok, S::Error> {
    session.shown().serialize(serializer)
}
