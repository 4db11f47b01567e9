//! Globs for hosts: labels, ports and addresses. Knows how a normalised host is written, not how it becomes one.

use std::net::Ipv6Addr;

use globset::Error;

use super::glob::labels;
use crate::plan::{HostPart, HostPattern};

/// Reads a glob for hosts. `*.` in front is one or more whole labels, `*` alone or before a port any host.
pub(super) fn pattern(glob: &str) -> Result<HostPattern, Error> {
    if let Some(address) = address(glob) {
        return Ok(HostPattern { regex: format!("(?s)^{}$", regex::escape(&address)), on: HostPart::Host });
    }
    let glob = glob.to_lowercase();
    let port = port_at(&glob);
    let (host, port_glob) = glob.split_at(port.unwrap_or(glob.len()));
    let inner = match host.strip_prefix("*.") {
        _ if host == "*" => format!(".*{}", labels(port_glob)?),
        Some(rest) => format!("(?:[^.]+\\.)+{}", labels(&format!("{rest}{port_glob}"))?),
        None => labels(&glob)?,
    };
    let on = if port.is_some() { HostPart::HostPort } else { HostPart::Host };
    Ok(HostPattern { regex: format!("(?s)^{inner}$"), on })
}

/// The normalised text of an IPv6 address, if the pattern is one: bare, in brackets, or in escaped brackets.
pub(crate) fn address(glob: &str) -> Option<String> {
    let bare = [("[", "]"), (r"\[", r"\]")]
        .iter()
        .find_map(|(open, close)| glob.strip_prefix(open)?.strip_suffix(close))
        .unwrap_or(glob);
    let address: Ipv6Addr = bare.parse().ok()?;
    Some(match address.to_ipv4_mapped() {
        Some(v4) => v4.to_string(),
        None => address.to_string(),
    })
}

/// Where the port of a pattern begins (its `:`), if it ends in `:digits`, `:*` or `:{...}`.
pub(crate) fn port_at(glob: &str) -> Option<usize> {
    let is_port = |port: &str| {
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        digits || port == "*" || is_one_group(port)
    };
    glob.match_indices(':').map(|(at, _)| at).find(|at| is_port(&glob[at + 1..]))
}

/// Whether the text is `{...}` and its first brace closes at its end.
fn is_one_group(text: &str) -> bool {
    let mut depth = 0usize;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1 == text.len(),
            '}' => depth = depth.saturating_sub(1),
            _ if depth == 0 => return false,
            _ => {}
        }
    }
    false
}

/// Whether the host of a glob ends with a dot, which no normalised host does.
pub(super) fn ends_with_dot(glob: &str) -> bool {
    glob[..port_at(glob).unwrap_or(glob.len())].ends_with('.')
}

/// Why a glob may not be read for hosts as its author thinks, if so.
pub(super) fn doubt(glob: &str) -> Option<(&'static str, &'static str)> {
    if address(glob).is_some() {
        return None;
    }
    let host = &glob[..port_at(glob).unwrap_or(glob.len())];
    if host.starts_with('[') && host.ends_with(']') && host.contains(':') {
        return Some((
            "in a glob [ ] is a class of characters, not an IPv6 address",
            r"write `\[::1\]:22` for an address with a port, `::1` for one without",
        ));
    }
    let bracketed = host.starts_with(r"\[") && host.ends_with(r"\]");
    if host.len() < glob.len() && host.contains(':') && !bracketed {
        return Some((
            "the last part is read as a port, what stands before it as an IPv6 address without brackets",
            r"write `\[2001:db8::*\]:*` for addresses with a port",
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex::Regex;

    /// What the pattern sees of a target: the host, and host:port if there is a port.
    fn hits(glob: &str, host: &str, port: Option<u16>) -> bool {
        let pattern = pattern(glob).expect("a good glob");
        let regex = Regex::new(&pattern.regex).expect("a good regex");
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        match pattern.on {
            HostPart::Host => regex.is_match(host),
            HostPart::HostPort => port.is_some_and(|port| regex.is_match(&format!("{bracketed}:{port}"))),
            HostPart::Either => false,
        }
    }

    #[test]
    fn a_leading_star_is_whole_labels() {
        assert!(hits("*.openai.com", "api.openai.com", Some(443)));
        assert!(hits("*.OpenAI.com", "a.b.openai.com", None));
        for host in ["openai.com", "evil-openai.com", "api.openai.com.evil.io", "apixopenai.com", ".openai.com"] {
            assert!(!hits("*.openai.com", host, Some(443)), "{host}");
        }
    }

    #[test]
    fn other_stars_stay_within_a_label() {
        assert!(hits("api-*.evil.io", "api-7.evil.io", None));
        assert!(!hits("api-*.evil.io", "api-7.x.evil.io", None));
        assert!(!hits("a?evil.io", "a.evil.io", None));
        assert!(hits("{a,*}.evil.io", "b.evil.io", None));
        assert!(!hits("{a,*}.evil.io", "c.b.evil.io", None));
    }

    #[test]
    fn a_star_alone_or_before_a_port_is_any_host() {
        assert!(hits("*", "a.b.c", None));
        assert!(hits("*:443", "a.b.c", Some(443)));
        assert!(hits("*:*", "::1", Some(1)));
        assert!(!hits("*:443", "a.b.c", Some(4430)));
        assert!(!hits("*:443", "a.b.c", None));
        assert!(hits("*:{80,443}", "a.b", Some(80)));
        assert!(hits("*.b:{8{0,1},443}", "a.b", Some(81)));
    }

    #[test]
    fn ports_are_digits_a_star_or_one_group_at_the_end() {
        assert_eq!(port_at("evil.io:22"), Some(7));
        assert_eq!(port_at("evil.io:*"), Some(7));
        assert_eq!(port_at("evil.io:{1,{2,3}}"), Some(7));
        assert_eq!(port_at("evil.io"), None);
        assert_eq!(port_at("evil.io:4?3"), None);
        assert_eq!(port_at("evil.io:"), None);
        assert_eq!(port_at("evil.io:{1}{2}"), None);
        assert_eq!(port_at("{a:1,b:{2,3}}"), None);
    }

    #[test]
    fn an_ipv6_address_is_that_address_in_any_spelling() {
        for glob in ["::1", "[::1]", r"\[::1\]", "0:0:0:0:0:0:0:1", "[0::0001]"] {
            assert!(hits(glob, "::1", Some(22)), "{glob}");
            assert!(!hits(glob, "::2", None), "{glob}");
        }
        assert!(hits("::ffff:10.0.0.1", "10.0.0.1", None));
        assert!(hits("2001:DB8::22", "2001:db8::22", None));
        assert!(hits("::1.2.3.4", "::102:304", None));
        assert!(hits(r"\[::1\]:22", "::1", Some(22)));
        assert!(!hits(r"\[::1\]:22", "::1", None));
    }

    #[test]
    fn doubtful_ipv6_patterns_are_named() {
        assert!(doubt("[::1]:22").is_some());
        assert!(doubt("2001:db8::*:*").is_some());
        for glob in ["::1", "[::1]", r"\[::1\]:22", "evil.io:22", "*.evil.io"] {
            assert!(doubt(glob).is_none(), "{glob}");
        }
    }
}
