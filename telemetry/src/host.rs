//! Hosts, read as WHATWG URL hosts (crate `url`), so that every spelling that a client would connect to is one text.
//! Knows no patterns, and never resolves a name.

use std::borrow::Cow;

use url::Host;

/// Schemes with a default port, which WHATWG calls special; they need no `//`.
const SPECIAL_SCHEMES: [(&str, u16); 5] = [("http", 80), ("https", 443), ("ws", 80), ("wss", 443), ("ftp", 21)];

/// Host and port of a network target, or the whole text in lower case where it has none that can be read.
pub(crate) fn normalise(raw: &str) -> (Cow<'_, str>, Option<u16>) {
    match read(raw) {
        Some((host, port)) => (host, port),
        None => (Cow::Owned(raw.to_lowercase()), None),
    }
}

fn read(raw: &str) -> Option<(Cow<'_, str>, Option<u16>)> {
    let (authority, default_port) = authority(raw);
    // WHATWG: the last `@` ends the userinfo.
    let server = authority.rsplit_once('@').map_or(authority, |(_, server)| server);
    let (host, port) = split_port(server)?;
    let port = match port {
        None | Some("") => default_port,
        Some(digits) => Some(parse_port(digits)?),
    };
    Some((parse_host(host)?, port))
}

/// The part between scheme and path, and the scheme's default port.
fn authority(raw: &str) -> (&str, Option<u16>) {
    let Some((scheme, rest)) = split_scheme(raw) else {
        return (until(raw, &['/', '\\', '?', '#']), None);
    };
    let special = SPECIAL_SCHEMES.iter().find(|(name, _)| scheme.eq_ignore_ascii_case(name));
    match special {
        // WHATWG: any number of either slash stands before a special URL's authority.
        Some((_, port)) => (until(rest.trim_start_matches(['/', '\\']), &['/', '\\', '?', '#']), Some(*port)),
        None => (until(&rest["//".len()..], &['/', '?', '#']), None),
    }
}

/// Scheme and what follows its colon, if the text is a URL and not `host:port`.
fn split_scheme(raw: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = raw.split_once(':')?;
    let named = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    let special = SPECIAL_SCHEMES.iter().any(|(name, _)| scheme.eq_ignore_ascii_case(name));
    (named && (rest.starts_with("//") || (special && !starts_with_port(rest)))).then_some((scheme, rest))
}

/// Whether a port and then nothing, or a path, stands here.
fn starts_with_port(rest: &str) -> bool {
    parse_port(until(rest, &['/', '\\', '?', '#'])).is_some()
}

fn until<'a>(text: &'a str, ends: &[char]) -> &'a str {
    text.split(ends).next().unwrap_or(text)
}

/// `host[:port]`, where an IPv6 host has brackets. `None` if something else follows the bracket.
fn split_port(server: &str) -> Option<(&str, Option<&str>)> {
    if server.starts_with('[') {
        let end = server.find(']')? + 1;
        return match &server[end..] {
            "" => Some((server, None)),
            rest => Some((&server[..end], Some(rest.strip_prefix(':')?))),
        };
    }
    Some(match server.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (server, None),
    })
}

fn parse_port(digits: &str) -> Option<u16> {
    // `u16::from_str` would take a sign.
    (digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

fn parse_host(host: &str) -> Option<Cow<'_, str>> {
    if is_plain_domain(host) {
        return Some(Cow::Borrowed(host));
    }
    match Host::parse(host).ok()? {
        Host::Domain(domain) if domain.ends_with('.') => {
            match Host::parse(domain.trim_end_matches('.')).ok()? {
                // Without its dots it may be a number, so an address.
                Host::Domain(domain) => Some(Cow::Owned(domain)),
                address => Some(Cow::Owned(address_text(&address)?)),
            }
        }
        Host::Domain(domain) => Some(Cow::Owned(domain)),
        address => Some(Cow::Owned(address_text(&address)?)),
    }
}

/// Dotted IPv4 or RFC 5952, IPv4 in IPv6 as IPv4.
fn address_text(host: &Host<String>) -> Option<String> {
    match host {
        Host::Ipv4(address) => Some(address.to_string()),
        Host::Ipv6(address) => {
            Some(address.to_ipv4_mapped().map_or_else(|| address.to_string(), |mapped| mapped.to_string()))
        }
        Host::Domain(_) => None,
    }
}

/// A cheap test for the common domain that is already normal: crate `url` would give it back unchanged.
fn is_plain_domain(host: &str) -> bool {
    let mut last_is_number = true;
    for label in host.split('.') {
        let plain = label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if label.is_empty() || !plain || label.starts_with("xn--") {
            return false;
        }
        // `0x7f` and `127` would make the host an IPv4 address or none at all.
        last_is_number = label.as_bytes()[0].is_ascii_digit();
    }
    !last_is_number
}
