//! Normalised targets: a corpus of spellings for each kind, and what must hold for every text.

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
fn paths_are_resolved_lexically() {
    for (raw, normal) in [
        ("/etc/passwd", "/etc/passwd"),
        ("/tmp/../etc/passwd", "/etc/passwd"),
        ("//etc/./passwd", "/etc/passwd"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("/etc/passwd/", "/etc/passwd"),
        ("/etc/passwd/.", "/etc/passwd"),
        ("/etc/passwd/x/..", "/etc/passwd"),
        ("/home/u/.ssh/a/../b", "/home/u/.ssh/b"),
        ("/a/.../b", "/a/.../b"),
        ("/a/..b/.c", "/a/..b/.c"),
        ("/", "/"),
        ("//", "/"),
        ("/..", "/"),
        ("/a/..", "/"),
        ("\\etc\\passwd", "/etc/passwd"),
        ("\\\\etc/..\\passwd\\", "/passwd"),
        ("C:\\Users\\u\\..\\.ssh", "C:/Users/.ssh"),
        ("/etc/%70asswd", "/etc/%70asswd"),
        ("/etc/ passwd\n", "/etc/ passwd\n"),
        ("/Etc/Passwd", "/Etc/Passwd"),
    ] {
        assert_eq!(path(raw), normal, "{raw}");
    }
}

#[test]
fn relative_paths_stay_relative() {
    for (raw, normal) in [
        ("src/main.rs", "src/main.rs"),
        ("./src//main.rs", "src/main.rs"),
        ("../../etc/passwd", "../../etc/passwd"),
        ("a/../../b", "../b"),
        ("../a/../../b", "../../b"),
        ("..", ".."),
        ("a/..", ""),
        (".", ""),
        ("", ""),
        ("a/", "a"),
        ("proc/self/root/etc", "proc/self/root/etc"),
        ("a/../proc/self/root/etc", "proc/self/root/etc"),
        ("a/~/b", "a/~/b"),
    ] {
        assert_eq!(path(raw), normal, "{raw}");
    }
}

#[test]
fn a_leading_tilde_is_a_component() {
    for (raw, normal) in [
        ("~", "/~"),
        ("~/.ssh/id_rsa", "/~/.ssh/id_rsa"),
        ("~root/.env", "/~root/.env"),
        ("~\\.ssh", "/~/.ssh"),
        ("~/../x", "/x"),
        ("~root/../../x", "/x"),
        ("~/../proc/self/root/etc", "/etc"),
        ("/~/x", "/~/x"),
    ] {
        assert_eq!(path(raw), normal, "{raw}");
    }
}

#[test]
fn file_urls_are_paths() {
    for (raw, normal) in [
        ("file:///etc/%70asswd", "/etc/passwd"),
        ("FILE://localhost/etc/passwd", "/etc/passwd"),
        ("file://host:80/etc/passwd", "/etc/passwd"),
        ("file:///tmp/%2e%2E/etc%2Fpasswd", "/etc/passwd"),
        ("file:///etc%5cpasswd", "/etc/passwd"),
        ("file:\\\\x", "file:/x"),
        ("file://host\\etc\\passwd", "/etc/passwd"),
        ("file:///a%2", "/a%2"),
        ("file:///a%zz%", "/a%zz%"),
        ("file:///%252e%252e/x", "/%2e%2e/x"),
        ("file:///%ff", "/\u{fffd}"),
        ("file:///%c3%a9", "/é"),
        ("file:///~/x", "/~/x"),
        ("file://host", "/"),
        ("file:/etc/passwd", "file:/etc/passwd"),
        ("/file:///etc", "/file:/etc"),
    ] {
        assert_eq!(path(raw), normal, "{raw}");
    }
}

#[test]
fn a_process_root_in_front_is_the_root() {
    for (raw, normal) in [
        ("/proc/self/root/etc/passwd", "/etc/passwd"),
        ("/proc/1234/root/etc/passwd", "/etc/passwd"),
        ("/proc/thread-self/root//etc/./passwd", "/etc/passwd"),
        ("/tmp/../proc/self/root/etc", "/etc"),
        ("/proc/self/root", "/"),
        ("/proc/self/root/", "/"),
        ("/proc/self/root/..", "/"),
        ("/proc/self/root/proc/1/root/etc", "/etc"),
        ("/proc/self/x/../root/etc", "/etc"),
        // From left to right: the root is dropped before `..` could leave it.
        ("/proc/self/root/../etc", "/etc"),
        ("/proc/self/root/../../proc/2/root/x", "/x"),
        ("file:///proc/self/root/etc", "/etc"),
        ("\\proc\\1\\root\\etc", "/etc"),
        ("/proc/self/rootfs/etc", "/proc/self/rootfs/etc"),
        ("/proc/selfish/root/etc", "/proc/selfish/root/etc"),
        ("/proc/12a/root/etc", "/proc/12a/root/etc"),
        ("/proc//root/etc", "/proc/root/etc"),
        ("/proc/١/root/etc", "/proc/١/root/etc"),
        ("/proc/self/cwd/etc", "/proc/self/cwd/etc"),
        ("/mnt/proc/self/root/etc", "/mnt/proc/self/root/etc"),
        ("/PROC/self/root/etc", "/PROC/self/root/etc"),
        ("~/proc/self/root", "/~/proc/self/root"),
    ] {
        assert_eq!(path(raw), normal, "{raw}");
    }
}

#[test]
fn hosts_lose_userinfo_path_and_scheme() {
    for (raw, normal) in [
        ("api.openai.com", "api.openai.com"),
        ("api.openai.com:443", "api.openai.com:443"),
        ("API.OpenAI.COM.:8443", "api.openai.com:8443"),
        ("https://u:p@api.openai.com/v1?x=1", "api.openai.com:443"),
        ("https://api.openai.com@evil.io/", "evil.io:443"),
        ("https://a@b@evil.io", "evil.io:443"),
        ("https://evil.io#@openai.com", "evil.io:443"),
        ("https://evil.io?@openai.com/", "evil.io:443"),
        ("https://evil.io\\@openai.com/", "evil.io:443"),
        ("https:\\\\evil.io\\x", "evil.io:443"),
        ("https:///evil.io/x", "evil.io:443"),
        ("user:secret@evil.io:22", "evil.io:22"),
        ("evil.io/path:1@x", "evil.io"),
        ("evil.io:22/path", "evil.io:22"),
        ("evil.io?q=http://x", "evil.io"),
        ("evil.io\\x", "evil.io"),
        ("http://evil.io:8080", "evil.io:8080"),
        ("HTTP://evil.io", "evil.io:80"),
        ("ws://evil.io", "evil.io:80"),
        ("wss://evil.io", "evil.io:443"),
        ("ftp://evil.io", "evil.io:21"),
        ("ssh://git@evil.io", "evil.io"),
        ("ssh://git@evil.io:2222/repo", "evil.io:2222"),
        ("x+y-z.1://evil.io", "evil.io"),
    ] {
        assert_eq!(host(raw), normal, "{raw}");
    }
}

#[test]
fn the_special_schemes_need_no_slashes_but_a_port_makes_a_host() {
    for (raw, normal) in [
        ("http:evil.io", "evil.io:80"),
        ("https:/evil.io/x", "evil.io:443"),
        ("WSS:evil.io:9", "evil.io:9"),
        ("http:80", "http:80"),
        ("https:443/x", "https:443"),
        ("ftp:021", "ftp:21"),
        ("http:80@evil.io", "evil.io:80"),
        ("http:8080.evil.io", "8080.evil.io:80"),
        ("http:2852039166", "169.254.169.254:80"),
        ("ssh:evil.io", "ssh:evil.io"),
        ("http:", "http:"),
        ("http://", "http://"),
    ] {
        assert_eq!(host(raw), normal, "{raw}");
    }
}

#[test]
fn ports_are_16_bits_of_digits() {
    for (raw, normal) in [
        ("evil.io:0", "evil.io:0"),
        ("Evil.IO.:022", "evil.io:22"),
        ("evil.io:65535", "evil.io:65535"),
        ("evil.io:000000000000000000000022", "evil.io:22"),
        ("evil.io:", "evil.io"),
        ("http://evil.io:/", "evil.io:80"),
    ] {
        assert_eq!(host(raw), normal, "{raw}");
    }
    for raw in [
        "Evil.io:65536",
        "Evil.io:-1",
        "Evil.io:+80",
        "Evil.io:8a",
        "Evil.io: 80",
        "Evil.io:80:80",
        "http://Evil.io:x/",
    ] {
        let whole = Target::Host { host: Cow::Owned(raw.to_lowercase()), port: None };
        assert_eq!(normalise(EventType::NetworkEgress, raw), whole, "{raw}");
    }
}

#[test]
fn ipv4_is_dotted_from_every_spelling() {
    for raw in [
        "169.254.169.254",
        "2852039166",
        "0xA9FEA9FE",
        "0251.0376.0251.0376",
        "169.254.43518",
        "169.16689662",
        "169.254.169.254.",
        "169.254.169.254..",
        "2852039166..",
        "１６９.254.169.254",
        "169。254。169。254",
        "%31%36%39.254.169.254",
        "[::ffff:169.254.169.254]",
        "[::FFFF:a9fe:a9fe]",
        "0xa9.0376.43518",
    ] {
        assert_eq!(host(raw), "169.254.169.254", "{raw}");
        assert_eq!(host(&format!("{raw}:80")), "169.254.169.254:80", "{raw}");
        assert_eq!(host(&format!("http://{raw}/latest")), "169.254.169.254:80", "{raw}");
    }
    for raw in [
        "169.254.169.254.5",
        "1169.254.169.254",
        "4294967296",
        "0x100000000",
        "a.169.254.169.254",
        "1.2.3.08",
        "[::ffff:1.2.3.4",
    ] {
        assert_eq!(host(raw), raw, "no address, so a text: {raw}");
    }
    assert_eq!(host("169.254.169.0254"), "169.254.169.172");
    assert_eq!(host("[::169.254.169.254]"), "::a9fe:a9fe");
    assert_eq!(host("0"), "0.0.0.0");
}

#[test]
fn ipv6_is_rfc_5952_with_brackets_before_a_port() {
    for (raw, normal) in [
        ("[::1]", "::1"),
        ("[::1]:22", "[::1]:22"),
        ("[0:0:0:0:0:0:0:1]:22", "[::1]:22"),
        ("[2001:DB8:0:0:1:0:0:1]", "2001:db8::1:0:0:1"),
        ("[2001:db8:0:1:1:1:1:1]", "2001:db8:0:1:1:1:1:1"),
        ("https://[2001:db8::]/x", "[2001:db8::]:443"),
        ("u@[::1]:", "::1"),
        ("[fe80::1%25eth0]:22", "[fe80::1%25eth0]:22"),
        ("[::1]x", "[::1]x"),
        ("[::1", "[::1"),
        ("::1]", "::1]"),
        ("[]", "[]"),
        // Without brackets it's no URL host; the text stays what it is.
        ("::1", "::1"),
        ("2001:DB8::1", "2001:db8::1"),
    ] {
        assert_eq!(host(raw), normal, "{raw}");
    }
}

#[test]
fn domains_go_through_uts_46() {
    for (raw, normal) in [
        ("bücher.openai.com:443", "xn--bcher-kva.openai.com:443"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("faß.de", "xn--fa-hia.de"),
        ("ev\u{ad}il.io", "evil.io"),
        ("evil。io", "evil.io"),
        ("ｅｖｉｌ.io", "evil.io"),
        ("%65vil.io", "evil.io"),
        ("_dmarc.evil.io", "_dmarc.evil.io"),
        ("-a-.evil.io", "-a-.evil.io"),
        ("evil.io...", "evil.io"),
        ("evil%2eio%2e", "evil.io"),
        ("", ""),
        (".", "."),
        ("..", ".."),
        ("Evil .io", "evil .io"),
        ("Evil.io\n", "evil.io\n"),
        ("xn--\u{130}", "xn--i\u{307}"),
        ("Evil<script>", "evil<script>"),
        ("%zz.Io", "%zz.io"),
    ] {
        assert_eq!(host(raw), normal, "{raw}");
    }
}

#[test]
fn other_targets_stay_as_they_are() {
    for event_type in EventType::ALL.into_iter().filter(|kind| !kind.has_path() && !kind.has_host()) {
        for raw in ["", " LS -la /a/../b ", "http://Evil.IO", "\u{1b}[31m"] {
            assert_eq!(normalise(event_type, raw), Target::Text(Cow::Borrowed(raw)));
        }
    }
    assert_eq!(normalise(EventType::FileWrite, "/a//b").text(), "/a/b");
    assert_eq!(normalise(EventType::PatchApply, "/a//b").text(), "/a/b");
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
