//! Paths, resolved lexically. The order of the steps is the contract's: an encoded or back-slashed `..` must not
//! survive them. Never touches a file system: links and mounts are not its business.

use std::borrow::Cow;

const FILE_SCHEME: &str = "file://";

/// The normal form of a path; a relative path stays relative, and may come out empty.
pub(crate) fn normalise(raw: &str) -> Cow<'_, str> {
    if is_normal(raw) {
        return Cow::Borrowed(raw);
    }
    let path = strip_file_scheme(raw);
    let path = if path.contains('\\') { Cow::Owned(path.replace('\\', "/")) } else { path };
    Cow::Owned(resolve(&path))
}

/// A cheap test for the common absolute path that is already normal. May say no to one that is.
fn is_normal(raw: &str) -> bool {
    let is_name = |component| !matches!(component, "" | "." | "..");
    raw.strip_prefix('/').is_some_and(|rest| !rest.starts_with("proc/") && rest.split('/').all(is_name))
        && !raw.contains('\\')
}

/// Takes `file://`, its authority and its percent-encoding away, if they are there.
fn strip_file_scheme(raw: &str) -> Cow<'_, str> {
    match raw.get(..FILE_SCHEME.len()) {
        Some(scheme) if scheme.eq_ignore_ascii_case(FILE_SCHEME) => {}
        _ => return Cow::Borrowed(raw),
    }
    let rest = &raw[FILE_SCHEME.len()..];
    match rest.find(['/', '\\']) {
        Some(start) => percent_decode(&rest[start..]),
        None => Cow::Borrowed("/"),
    }
}

/// Undoes `%xx` once; bytes that are then no UTF-8 become U+FFFD.
fn percent_decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = match bytes[at..] {
            [b'%', high, low, ..] => hex(high).zip(hex(low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        decoded.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// Resolves the components of a path of slashes from left to right.
fn resolve(path: &str) -> String {
    let absolute = path.starts_with('/') || path.starts_with('~');
    let mut kept: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => {
                kept.pop();
            }
            ".." if absolute => {}
            _ => kept.push(component),
        }
        if absolute && is_process_root(&kept) {
            kept.clear();
        }
    }
    let mut resolved = String::with_capacity(path.len() + 1);
    for (index, component) in kept.iter().enumerate() {
        if absolute || index > 0 {
            resolved.push('/');
        }
        resolved.push_str(component);
    }
    if absolute && resolved.is_empty() {
        resolved.push('/');
    }
    resolved
}

/// Whether these are the components of `/proc/<process>/root`, another name of `/`.
fn is_process_root(components: &[&str]) -> bool {
    let &["proc", process, "root"] = components else {
        return false;
    };
    matches!(process, "self" | "thread-self")
        || (!process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit()))
}
