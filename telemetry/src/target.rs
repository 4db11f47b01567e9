//! Normalised targets: one text for every spelling of a path or a host, so that rules compare what is meant. The raw
//! target stays with the event as evidence. Knows nothing of patterns; never touches a file system or a resolver.

use std::borrow::Cow;

use crate::{EventType, host, path};

/// A normalised target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target<'a> {
    /// A path (file_access, file_write, patch_apply), resolved lexically.
    Path(Cow<'a, str>),
    /// A host (network_egress); a target that can't be read as one is here as a whole, in lower case, without port.
    Host {
        /// A domain in ASCII lower case, a dotted IPv4 address or an IPv6 address without brackets.
        host: Cow<'a, str>,
        /// The port that was named, or the default of the URL's scheme.
        port: Option<u16>,
    },
    /// Everything else, as it came.
    Text(Cow<'a, str>),
}

/// Normalises the raw target of an event of this type. Total: every text has one normal form.
///
/// ```
/// use clawdstrike_telemetry::{EventType, target::normalise};
/// assert_eq!(normalise(EventType::FileAccess, "/tmp/../etc//passwd").text(), "/etc/passwd");
/// assert_eq!(normalise(EventType::NetworkEgress, "https://u@0x7f.1/x").text(), "127.0.0.1:443");
/// ```
pub fn normalise(event_type: EventType, raw: &str) -> Target<'_> {
    if event_type.has_path() {
        Target::Path(path::normalise(raw))
    } else if event_type.has_host() {
        let (host, port) = host::normalise(raw);
        Target::Host { host, port }
    } else {
        Target::Text(Cow::Borrowed(raw))
    }
}

impl Target<'_> {
    /// The target as one text: hosts as `host:port` where there is a port, then with brackets around IPv6.
    /// Distinct targets are counted by it.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Target::Path(text) | Target::Text(text) | Target::Host { host: text, port: None } => Cow::Borrowed(text),
            Target::Host { host, port: Some(port) } if host.contains(':') => Cow::Owned(format!("[{host}]:{port}")),
            Target::Host { host, port: Some(port) } => Cow::Owned(format!("{host}:{port}")),
        }
    }
}
