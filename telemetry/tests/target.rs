//! Normalised targets: what must hold for every text. `evasions.rs` has the spellings one by one.

use std::borrow::Cow;

use clawdstrike_telemetry::{
    EventType,
    target::{Target, normalise},
};
use proptest::{prelude::*, sample::select};

fn path(raw: &str) -> String {
    let target = normalise(EventType::FileAccess, raw);
    assert!(matches!(target, Target::Path(_)));
    target.text().into_owned()
}

fn host(raw: &str) -> String {
    let target = normalise(EventType::NetworkEgress, raw);
    assert!(matches!(target, Target::Host { .. }));
    target.text().into_owned()
}

#[test]
fn normal_targets_cost_no_allocation() {
    for raw in ["/", "/etc/passwd", "/home/u/.ssh/id_rsa"] {
        let target = normalise(EventType::FileAccess, raw);
        assert!(raw == "/" || matches!(target, Target::Path(Cow::Borrowed(_))), "{raw}");
    }
    for raw in ["api.openai.com:443", "https://u@api.openai.com/x", "localhost"] {
        let target = normalise(EventType::NetworkEgress, raw);
        assert!(matches!(target, Target::Host { host: Cow::Borrowed(_), .. }), "{raw}");
    }
}

/// Texts made of what the readers look for.
fn near_target(tokens: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop_oneof![8 => select(tokens.to_vec()).prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)],
        0..12,
    )
    .prop_map(|tokens| tokens.concat())
}

const PATH_TOKENS: &[&str] = &[
    "/",
    "/",
    "\\",
    ".",
    "..",
    "/../",
    "~",
    "a",
    "b",
    "proc",
    "self",
    "root",
    "/proc/self/root",
    "12",
    "thread-self",
    "file://",
    "%2e",
    "%2f",
    "%",
];
const HOST_TOKENS: &[&str] = &[
    ".",
    ":",
    "/",
    "@",
    "[",
    "]",
    "http",
    "https:",
    "://",
    "a",
    "B",
    "evil",
    "io",
    "xn--",
    "xn--bcher-kva",
    "ü",
    "0x",
    "1",
    "255",
    "80",
    "65536",
    "%",
    "%2e",
    "::",
    "ffff",
    "-",
    "_",
    "。",
    "\\",
    "?",
    "#",
    "Σ",
    "ß",
];

/// The path without this crate's shortcuts: resolved by `std`, which knows `.` and `//`.
fn slow_path(raw: &str) -> String {
    use std::path::{Component, Path};
    let mut parts: Vec<String> = Vec::new();
    for component in Path::new(raw).components() {
        match component {
            Component::ParentDir => drop(parts.pop()),
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            _ => {}
        }
        if let [proc, process, root] = &parts[..]
            && proc == "proc"
            && root == "root"
            && (["self", "thread-self"].contains(&process.as_str()) || process.parse::<u128>().is_ok())
        {
            parts.clear();
        }
    }
    format!("/{}", parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn absolute_paths_agree_with_std(tail in near_target(PATH_TOKENS)) {
        let raw = format!("/{}", tail.replace('\\', "/"));
        prop_assert_eq!(path(&raw), slow_path(&raw));
    }

    #[test]
    fn normal_paths_are_normal(raw in near_target(PATH_TOKENS)) {
        let normal = path(&raw);
        if normal.starts_with('/') {
            prop_assert_eq!(path(&normal), normal.as_str());
            prop_assert_eq!(path(&format!("file://h{}", normal.replace('%', "%25"))), normal.as_str());
            prop_assert_eq!(path(&format!("/x/../proc/7/root{normal}")), normal.as_str());
        } else if !normal.starts_with('~') {
            prop_assert_eq!(path(&normal), normal.as_str());
            prop_assert_eq!(path(&format!("./{normal}/")), normal.as_str());
        }
        prop_assert!(normal == "/" || !normal.ends_with('/'));
        prop_assert!(!normal.contains("//") && !normal.contains('\\'));
    }

    #[test]
    fn normal_hosts_are_normal(raw in near_target(HOST_TOKENS)) {
        let first = normalise(EventType::NetworkEgress, &raw);
        let text = first.text();
        prop_assert_eq!(host(&text), &*text, "{}", raw);
    }

    #[test]
    fn plain_domains_are_what_crate_url_says(domain in "([a-z0-9-]{0,6}\\.){0,3}(xn--)?[a-z0-9-]{0,6}", port in any::<u16>()) {
        let expected = url::Url::parse(&format!("http://{domain}")).ok().and_then(|url| url.host_str().map(str::to_owned));
        // A host of dots alone is none of ours, and we go on where a dot hid an address.
        if let Some(expected) = expected.filter(|host| !host.ends_with('.')) {
            prop_assert_eq!(host(&format!("{domain}:{port}")), format!("{expected}:{port}"));
        }
    }

    #[test]
    fn never_panics_and_text_is_stable(raw in any::<String>(), index in 0u8..7) {
        let event_type = EventType::try_from(index).expect("there are seven");
        let target = normalise(event_type, &raw);
        let again = normalise(event_type, &raw);
        prop_assert_eq!(target.text(), again.text());
    }
}
