//! Evasions: spellings that would get a path or a host past a rule, each with what it is read as (SPEC §4). A line that has to
//! change means that some rule matches something else than before.

use std::collections::HashSet;

use clawdstrike_telemetry::{
    EventType,
    target::{Target, normalise},
};

const READ: EventType = EventType::FileAccess;
const WRITE: EventType = EventType::FileWrite;
const PATCH: EventType = EventType::PatchApply;
const HOST: EventType = EventType::NetworkEgress;
const SHELL: EventType = EventType::ShellCommand;
const TOOL: EventType = EventType::McpTool;
const PROMPT: EventType = EventType::PromptInjectionAttempt;

/// Event type, raw target, normalised target. A host that can't be read stays as a whole, in lower case.
#[rustfmt::skip]
const CASES: &[(EventType, &str, &str)] = &[
    // Dots, slashes, backslashes
    (READ, "/etc/passwd", "/etc/passwd"),
    (READ, "/tmp/../etc/passwd", "/etc/passwd"),
    (READ, "//etc/./passwd", "/etc/passwd"),
    (READ, "/../../etc/passwd", "/etc/passwd"),
    (READ, "/etc/passwd/", "/etc/passwd"),
    (READ, "/etc/passwd/.", "/etc/passwd"),
    (READ, "/etc/passwd/x/..", "/etc/passwd"),
    (READ, "/home/u/.ssh/a/../b", "/home/u/.ssh/b"),
    (READ, "/a/.../b", "/a/.../b"),
    (READ, "/a/..b/.c", "/a/..b/.c"),
    (READ, "/", "/"),
    (READ, "//", "/"),
    (READ, "/..", "/"),
    (READ, "/a/..", "/"),
    (READ, "\\etc\\passwd", "/etc/passwd"),
    (READ, "\\\\etc/..\\passwd\\", "/passwd"),
    (READ, "C:\\Users\\u\\..\\.ssh", "C:/Users/.ssh"),
    (READ, "/etc/%70asswd", "/etc/%70asswd"),
    (READ, "/etc/ passwd\n", "/etc/ passwd\n"),
    (READ, "/Etc/Passwd", "/Etc/Passwd"),
    (READ, "////etc////passwd////", "/etc/passwd"),
    (READ, "/etc/passwd/.//./", "/etc/passwd"),
    (READ, "/var/log/../../etc/./passwd", "/etc/passwd"),
    (READ, "/a/b/c/../../../../../../etc/passwd", "/etc/passwd"),
    (READ, "/a\\..\\..\\etc/passwd", "/etc/passwd"),
    (READ, "\\\\server\\share\\..\\x", "/server/x"),
    (READ, "\\\\?\\C:\\Windows", "/?/C:/Windows"),
    (READ, "C:/a/../../b", "b"),
    (READ, "/etc/..passwd", "/etc/..passwd"),
    (READ, "/etc/.. /passwd", "/etc/.. /passwd"),
    (READ, "/etc/passwd\0.txt", "/etc/passwd\0.txt"),
    (READ, "/etc/passwd\u{200b}", "/etc/passwd\u{200b}"),
    (READ, "/etc/p\u{430}sswd", "/etc/p\u{430}sswd"),
    (READ, "／etc／passwd", "／etc／passwd"),
    (READ, "/tmp/．．/etc", "/tmp/．．/etc"),
    (READ, "/\u{1b}[31m/../etc", "/etc"),
    (WRITE, "/tmp/../etc//cron.d/./x/", "/etc/cron.d/x"),
    (PATCH, "src\\..\\..\\.git\\config", "../.git/config"),
    (WRITE, "/a//b", "/a/b"),
    (PATCH, "/a//b", "/a/b"),
    // Relative paths
    (READ, "src/main.rs", "src/main.rs"),
    (READ, "./src//main.rs", "src/main.rs"),
    (READ, "../../etc/passwd", "../../etc/passwd"),
    (READ, "a/../../b", "../b"),
    (READ, "../a/../../b", "../../b"),
    (READ, "..", ".."),
    (READ, "a/..", ""),
    (READ, ".", ""),
    (READ, "", ""),
    (READ, "a/", "a"),
    (READ, "proc/self/root/etc", "proc/self/root/etc"),
    (READ, "a/../proc/self/root/etc", "proc/self/root/etc"),
    (READ, "a/~/b", "a/~/b"),
    (READ, ".\\..\\x", "../x"),
    (READ, "%2e%2e/etc", "%2e%2e/etc"),
    (READ, " /etc/passwd", " /etc/passwd"),
    (READ, "a//b/./../c/", "a/c"),
    (READ, "../../../", "../../.."),
    // Home folders
    (READ, "~", "/~"),
    (READ, "~/.ssh/id_rsa", "/~/.ssh/id_rsa"),
    (READ, "~root/.env", "/~root/.env"),
    (READ, "~\\.ssh", "/~/.ssh"),
    (READ, "~/../x", "/x"),
    (READ, "~root/../../x", "/x"),
    (READ, "~/../proc/self/root/etc", "/etc"),
    (READ, "/~/x", "/~/x"),
    (READ, "~/", "/~"),
    (READ, "~//./.ssh/", "/~/.ssh"),
    (READ, "~\\..\\..\\etc\\passwd", "/etc/passwd"),
    (READ, "~~", "/~~"),
    (READ, " ~/x", " ~/x"),
    (READ, "/home/u/~/x", "/home/u/~/x"),
    (READ, "/~/../etc", "/etc"),
    (WRITE, "~root/.bashrc", "/~root/.bashrc"),
    // file URLs: percent-encoding is undone once, backslashes and dots after it
    (READ, "file:///etc/%70asswd", "/etc/passwd"),
    (READ, "FILE://localhost/etc/passwd", "/etc/passwd"),
    (READ, "file://host:80/etc/passwd", "/etc/passwd"),
    (READ, "file:///tmp/%2e%2E/etc%2Fpasswd", "/etc/passwd"),
    (READ, "file:///etc%5cpasswd", "/etc/passwd"),
    (READ, "file:\\\\x", "file:/x"),
    (READ, "file://host\\etc\\passwd", "/etc/passwd"),
    (READ, "file:///a%2", "/a%2"),
    (READ, "file:///a%zz%", "/a%zz%"),
    (READ, "file:///%252e%252e/x", "/%2e%2e/x"),
    (READ, "file:///%ff", "/\u{fffd}"),
    (READ, "file:///%c3%a9", "/é"),
    (READ, "file:///~/x", "/~/x"),
    (READ, "file://host", "/"),
    (READ, "file:/etc/passwd", "file:/etc/passwd"),
    (READ, "/file:///etc", "/file:/etc"),
    (READ, "file:////etc//passwd", "/etc/passwd"),
    (READ, "file:///tmp/..%2fetc%2Fpasswd", "/etc/passwd"),
    (READ, "file:///tmp/%252e%252e/etc", "/tmp/%2e%2e/etc"),
    (READ, "file:///tmp%5c..%5Cetc", "/etc"),
    (READ, "file:///etc/passwd%00.txt", "/etc/passwd\0.txt"),
    (READ, "file:///%7e/.ssh/id", "/~/.ssh/id"),
    (READ, "file://~/.ssh/id", "/.ssh/id"),
    (READ, "file:~/.ssh/id", "file:~/.ssh/id"),
    (READ, "file:///etc/passwd?x#y", "/etc/passwd?x#y"),
    (READ, "FiLe:///C:/Windows", "/C:/Windows"),
    (READ, "file:///proc/%73elf/root/etc", "/etc"),
    (READ, "file://u:p@h/etc", "/etc"),
    (READ, "file:///%c0%ae%c0%ae/etc", "/\u{fffd}\u{fffd}\u{fffd}\u{fffd}/etc"),
    (PATCH, "file:///repo/%2e%2e/.git", "/.git"),
    // Other names of the root
    (READ, "/proc/self/root/etc/passwd", "/etc/passwd"),
    (READ, "/proc/1234/root/etc/passwd", "/etc/passwd"),
    (READ, "/proc/thread-self/root//etc/./passwd", "/etc/passwd"),
    (READ, "/tmp/../proc/self/root/etc", "/etc"),
    (READ, "/proc/self/root", "/"),
    (READ, "/proc/self/root/", "/"),
    (READ, "/proc/self/root/..", "/"),
    (READ, "/proc/self/root/proc/1/root/etc", "/etc"),
    (READ, "/proc/self/x/../root/etc", "/etc"),
    (READ, "/proc/self/root/../etc", "/etc"),
    (READ, "/proc/self/root/../../proc/2/root/x", "/x"),
    (READ, "file:///proc/self/root/etc", "/etc"),
    (READ, "\\proc\\1\\root\\etc", "/etc"),
    (READ, "/proc/self/rootfs/etc", "/proc/self/rootfs/etc"),
    (READ, "/proc/selfish/root/etc", "/proc/selfish/root/etc"),
    (READ, "/proc/12a/root/etc", "/proc/12a/root/etc"),
    (READ, "/proc//root/etc", "/proc/root/etc"),
    (READ, "/proc/١/root/etc", "/proc/١/root/etc"),
    (READ, "/proc/self/cwd/etc", "/proc/self/cwd/etc"),
    (READ, "/mnt/proc/self/root/etc", "/mnt/proc/self/root/etc"),
    (READ, "/PROC/self/root/etc", "/PROC/self/root/etc"),
    (READ, "~/proc/self/root", "/~/proc/self/root"),
    (READ, "/./proc/./self/./root/./etc", "/etc"),
    (READ, "/proc/self/../self/root/etc", "/etc"),
    (READ, "/proc/self/root/proc/thread-self/root/etc", "/etc"),
    (READ, "/proc/00/root/etc", "/etc"),
    (READ, "/proc/99999999999999999999999/root/x", "/x"),
    (READ, "/proc/self/task/1/root/etc", "/proc/self/task/1/root/etc"),
    (READ, "//proc\\self\\root//etc", "/etc"),
    (READ, "/proc/-1/root/etc", "/proc/-1/root/etc"),
    (READ, "~/../proc/1/root/etc/shadow", "/etc/shadow"),
    (WRITE, "/proc/self/root/etc/cron.d/x", "/etc/cron.d/x"),
    // Userinfo, paths and schemes
    (HOST, "api.openai.com", "api.openai.com"),
    (HOST, "api.openai.com:443", "api.openai.com:443"),
    (HOST, "API.OpenAI.COM.:8443", "api.openai.com:8443"),
    (HOST, "https://u:p@api.openai.com/v1?x=1", "api.openai.com:443"),
    (HOST, "https://api.openai.com@evil.io/", "evil.io:443"),
    (HOST, "https://a@b@evil.io", "evil.io:443"),
    (HOST, "https://evil.io#@openai.com", "evil.io:443"),
    (HOST, "https://evil.io?@openai.com/", "evil.io:443"),
    (HOST, "https://evil.io\\@openai.com/", "evil.io:443"),
    (HOST, "https:\\\\evil.io\\x", "evil.io:443"),
    (HOST, "https:///evil.io/x", "evil.io:443"),
    (HOST, "user:secret@evil.io:22", "evil.io:22"),
    (HOST, "evil.io/path:1@x", "evil.io"),
    (HOST, "evil.io:22/path", "evil.io:22"),
    (HOST, "evil.io?q=http://x", "evil.io"),
    (HOST, "evil.io\\x", "evil.io"),
    (HOST, "http://evil.io:8080", "evil.io:8080"),
    (HOST, "HTTP://evil.io", "evil.io:80"),
    (HOST, "ws://evil.io", "evil.io:80"),
    (HOST, "wss://evil.io", "evil.io:443"),
    (HOST, "ftp://evil.io", "evil.io:21"),
    (HOST, "ssh://git@evil.io", "evil.io"),
    (HOST, "ssh://git@evil.io:2222/repo", "evil.io:2222"),
    (HOST, "x+y-z.1://evil.io", "evil.io"),
    (HOST, "hTTpS://EVIL.io/PATH?Q#F", "evil.io:443"),
    (HOST, "https:////evil.io", "evil.io:443"),
    (HOST, "https:/\\/evil.io", "evil.io:443"),
    (HOST, "http://evil.io\\.openai.com", "evil.io:80"),
    (HOST, "https://api.openai.com:443@evil.io/", "evil.io:443"),
    (HOST, "evil.io@api.openai.com", "api.openai.com"),
    (HOST, "http://a%40b@evil.io", "evil.io:80"),
    (HOST, "https://evil.io;@good.io", "good.io:443"),
    (HOST, "ssh://evil.io\\@good.io", "good.io"),
    (HOST, "http://evil.io:81#@good.io", "evil.io:81"),
    (HOST, "gopher://Evil.io:70/x", "evil.io:70"),
    (HOST, "javascript://evil.io/%0a", "evil.io"),
    (HOST, "//Evil.io/x", "//evil.io/x"),
    (HOST, "unix:///var/run/X.sock", "unix:///var/run/x.sock"),
    (HOST, "data:text/html,X", "data:text/html,x"),
    (HOST, " https://Evil.io", " https://evil.io"),
    (HOST, "https://Evil.io ", "https://evil.io "),
    (HOST, "https://Evil.io\t/", "https://evil.io\t/"),
    (HOST, "https://user:@evil.io:8443/", "evil.io:8443"),
    // Schemes without slashes
    (HOST, "http:evil.io", "evil.io:80"),
    (HOST, "https:/evil.io/x", "evil.io:443"),
    (HOST, "WSS:evil.io:9", "evil.io:9"),
    (HOST, "http:80", "http:80"),
    (HOST, "https:443/x", "https:443"),
    (HOST, "ftp:021", "ftp:21"),
    (HOST, "http:80@evil.io", "evil.io:80"),
    (HOST, "http:8080.evil.io", "8080.evil.io:80"),
    (HOST, "http:2852039166", "169.254.169.254:80"),
    (HOST, "ssh:evil.io", "ssh:evil.io"),
    (HOST, "http:", "http:"),
    (HOST, "http://", "http://"),
    // Ports
    (HOST, "evil.io:0", "evil.io:0"),
    (HOST, "Evil.IO.:022", "evil.io:22"),
    (HOST, "evil.io:65535", "evil.io:65535"),
    (HOST, "evil.io:000000000000000000000022", "evil.io:22"),
    (HOST, "evil.io:", "evil.io"),
    (HOST, "http://evil.io:/", "evil.io:80"),
    (HOST, "Evil.io:65536", "evil.io:65536"),
    (HOST, "Evil.io:-1", "evil.io:-1"),
    (HOST, "Evil.io:+80", "evil.io:+80"),
    (HOST, "Evil.io:8a", "evil.io:8a"),
    (HOST, "Evil.io: 80", "evil.io: 80"),
    (HOST, "Evil.io:80:80", "evil.io:80:80"),
    (HOST, "http://Evil.io:x/", "http://evil.io:x/"),
    (HOST, "Evil.io:00443", "evil.io:443"),
    (HOST, ":443", ":443"),
    (HOST, "Evil.io:443:", "evil.io:443:"),
    (HOST, "Evil.io:４４３", "evil.io:４４３"),
    (HOST, "Evil.io:0x50", "evil.io:0x50"),
    (HOST, "Evil.io:99999999999999999999", "evil.io:99999999999999999999"),
    (HOST, "Evil.io:65536/X", "evil.io:65536/x"),
    (HOST, "http://evil.io:80@good.io:81/", "good.io:81"),
    (HOST, "[::1]:080", "[::1]:80"),
    (HOST, "[::1]:65536", "[::1]:65536"),
    // IPv4 in decimal, octal, hex, in short, in other scripts
    (HOST, "169.254.169.254", "169.254.169.254"),
    (HOST, "2852039166", "169.254.169.254"),
    (HOST, "0xA9FEA9FE", "169.254.169.254"),
    (HOST, "0251.0376.0251.0376", "169.254.169.254"),
    (HOST, "169.254.43518", "169.254.169.254"),
    (HOST, "169.16689662", "169.254.169.254"),
    (HOST, "169.254.169.254.", "169.254.169.254"),
    (HOST, "169.254.169.254..", "169.254.169.254"),
    (HOST, "2852039166..", "169.254.169.254"),
    (HOST, "１６９.254.169.254", "169.254.169.254"),
    (HOST, "169。254。169。254", "169.254.169.254"),
    (HOST, "%31%36%39.254.169.254", "169.254.169.254"),
    (HOST, "[::ffff:169.254.169.254]", "169.254.169.254"),
    (HOST, "[::FFFF:a9fe:a9fe]", "169.254.169.254"),
    (HOST, "0xa9.0376.43518", "169.254.169.254"),
    (HOST, "169.254.169.254.5", "169.254.169.254.5"),
    (HOST, "1169.254.169.254", "1169.254.169.254"),
    (HOST, "4294967296", "4294967296"),
    (HOST, "0x100000000", "0x100000000"),
    (HOST, "a.169.254.169.254", "a.169.254.169.254"),
    (HOST, "1.2.3.08", "1.2.3.08"),
    (HOST, "[::ffff:1.2.3.4", "[::ffff:1.2.3.4"),
    (HOST, "169.254.169.0254", "169.254.169.172"),
    (HOST, "[::169.254.169.254]", "::a9fe:a9fe"),
    (HOST, "0", "0.0.0.0"),
    (HOST, "0x7f.1", "127.0.0.1"),
    (HOST, "0177.0.0.01", "127.0.0.1"),
    (HOST, "127.1", "127.0.0.1"),
    (HOST, "127.0.1", "127.0.0.1"),
    (HOST, "0X7F000001", "127.0.0.1"),
    (HOST, "017700000001", "127.0.0.1"),
    (HOST, "2130706433:80", "127.0.0.1:80"),
    (HOST, "http://0x7f.0x0.0x0.0x1/", "127.0.0.1:80"),
    (HOST, "0x", "0.0.0.0"),
    (HOST, "4294967295", "255.255.255.255"),
    (HOST, "1.16777215", "1.255.255.255"),
    (HOST, "1.16777216", "1.16777216"),
    (HOST, "256.1", "256.1"),
    (HOST, "127.0.0.256", "127.0.0.256"),
    (HOST, "127..0.1", "127..0.1"),
    (HOST, "09.0.0.1", "09.0.0.1"),
    (HOST, "0x7G.0.0.1", "0x7g.0.0.1"),
    (HOST, "-1.0.0.1", "-1.0.0.1"),
    (HOST, "①②⑦.0.0.1", "127.0.0.1"),
    (HOST, "１２７．０．０．１", "127.0.0.1"),
    (HOST, "𝟏𝟐𝟕.0.0.1", "127.0.0.1"),
    (HOST, "127｡0｡0｡1", "127.0.0.1"),
    (HOST, "0x7f。1:22", "127.0.0.1:22"),
    // IPv6
    (HOST, "[::1]", "::1"),
    (HOST, "[::1]:22", "[::1]:22"),
    (HOST, "[0:0:0:0:0:0:0:1]:22", "[::1]:22"),
    (HOST, "[2001:DB8:0:0:1:0:0:1]", "2001:db8::1:0:0:1"),
    (HOST, "[2001:db8:0:1:1:1:1:1]", "2001:db8:0:1:1:1:1:1"),
    (HOST, "https://[2001:db8::]/x", "[2001:db8::]:443"),
    (HOST, "u@[::1]:", "::1"),
    (HOST, "[fe80::1%25eth0]:22", "[fe80::1%25eth0]:22"),
    (HOST, "[::1]x", "[::1]x"),
    (HOST, "[::1", "[::1"),
    (HOST, "::1]", "::1]"),
    (HOST, "[]", "[]"),
    (HOST, "::1", "::1"),
    (HOST, "2001:DB8::1", "2001:db8::1"),
    (HOST, "[::]", "::"),
    (HOST, "[0:0:0:0:0:0:0:0]:80", "[::]:80"),
    (HOST, "[1:0:0:2:0:0:0:3]", "1:0:0:2::3"),
    (HOST, "[1:0:0:2:3:0:0:4]", "1::2:3:0:0:4"),
    (HOST, "[1:0:2:3:4:5:6:7]", "1:0:2:3:4:5:6:7"),
    (HOST, "[0001:00a::F]", "1:a::f"),
    (HOST, "[::ffff:7f00:1]", "127.0.0.1"),
    (HOST, "[::FFFF:127.0.0.1]:443", "127.0.0.1:443"),
    (HOST, "[0:0:0:0:0:ffff:10.0.0.1]", "10.0.0.1"),
    (HOST, "[::ffff:0:127.0.0.1]", "::ffff:0:7f00:1"),
    (HOST, "[64:FF9B::7f00:1]", "64:ff9b::7f00:1"),
    (HOST, "http://[::1]", "[::1]:80"),
    (HOST, "https://u@[2001:DB8::1]:8443/x", "[2001:db8::1]:8443"),
    (HOST, "[fe80::1%eth0]", "[fe80::1%eth0]"),
    (HOST, "[::G]", "[::g]"),
    (HOST, "[:::1]", "[:::1]"),
    (HOST, "[1:2:3:4:5:6:7:8:9]", "[1:2:3:4:5:6:7:8:9]"),
    (HOST, "[00000::1]", "[00000::1]"),
    (HOST, "[::01.2.3.4]", "[::01.2.3.4]"),
    (HOST, "http://[::1", "http://[::1"),
    (HOST, "http://::1/", "http://::1/"),
    (HOST, "[127.0.0.1]", "[127.0.0.1]"),
    // Domains
    (HOST, "bücher.openai.com:443", "xn--bcher-kva.openai.com:443"),
    (HOST, "BÜCHER.example", "xn--bcher-kva.example"),
    (HOST, "XN--BCHER-KVA.example", "xn--bcher-kva.example"),
    (HOST, "faß.de", "xn--fa-hia.de"),
    (HOST, "ev\u{ad}il.io", "evil.io"),
    (HOST, "evil。io", "evil.io"),
    (HOST, "ｅｖｉｌ.io", "evil.io"),
    (HOST, "%65vil.io", "evil.io"),
    (HOST, "_dmarc.evil.io", "_dmarc.evil.io"),
    (HOST, "-a-.evil.io", "-a-.evil.io"),
    (HOST, "evil.io...", "evil.io"),
    (HOST, "evil%2eio%2e", "evil.io"),
    (HOST, "", ""),
    (HOST, ".", "."),
    (HOST, "..", ".."),
    (HOST, "Evil .io", "evil .io"),
    (HOST, "Evil.io\n", "evil.io\n"),
    (HOST, "xn--\u{130}", "xn--i\u{307}"),
    (HOST, "Evil<script>", "evil<script>"),
    (HOST, "%zz.Io", "%zz.io"),
    (HOST, "EVIL.IO..:443", "evil.io:443"),
    (HOST, "https://Evil.IO./", "evil.io:443"),
    (HOST, "eVil..io", "evil..io"),
    (HOST, ".Evil.io", ".evil.io"),
    (HOST, "bu\u{308}cher.example", "xn--bcher-kva.example"),
    (HOST, "ﬁle.io", "file.io"),
    (HOST, "ⓔⓥⓘⓛ.io", "evil.io"),
    (HOST, "\u{212a}raken.io", "kraken.io"),
    (HOST, "o\u{17f}.io", "os.io"),
    (HOST, "℡.io", "tel.io"),
    (HOST, "evil\u{200b}.io", "evil.io"),
    (HOST, "evil\u{2060}.io", "evil.io"),
    (HOST, "\u{feff}evil.io", "evil.io"),
    (HOST, "evil\u{200d}.io", "evil\u{200d}.io"),
    (HOST, "evil．io", "evil.io"),
    (HOST, "evil｡io:22", "evil.io:22"),
    (HOST, "\u{430}pi.openai.com", "xn--pi-6kc.openai.com"),
    (HOST, "\u{ff21}PI.openai.com", "api.openai.com"),
    (HOST, "xn--A", "xn--a"),
    (HOST, "https://%45vil.io", "evil.io:443"),
    (HOST, "https://%65%76%69%6c.io/", "evil.io:443"),
    (HOST, "https://evil%E3%80%82io", "evil.io:443"),
    (HOST, "https://%EF%BC%A5vil.io", "evil.io:443"),
    (HOST, "%2565vil.io", "%2565vil.io"),
    (HOST, "https://Evil.io%252eopenai.com", "https://evil.io%252eopenai.com"),
    (HOST, "https://api.openai.com%40Evil.io", "https://api.openai.com%40evil.io"),
    (HOST, "https://Evil.io%2f.openai.com", "https://evil.io%2f.openai.com"),
    (HOST, "https://Evil.io%00.openai.com", "https://evil.io%00.openai.com"),
    (HOST, "https://Evil.io%ff", "https://evil.io%ff"),
    (HOST, "https://Evil.io%0d%0aX", "https://evil.io%0d%0ax"),
    (HOST, "Evil.io\0", "evil.io\0"),
    (HOST, "Ev\til.io", "ev\til.io"),
    (HOST, "Ev\u{1}il.io", "ev\u{1}il.io"),
    (HOST, "Evil.io\u{7f}", "evil.io\u{7f}"),
    (HOST, "\u{1b}[31mEvil.io", "\u{1b}[31mevil.io"),
    (HOST, "Evil.io|x", "evil.io|x"),
    (HOST, "*.Evil.io", "*.evil.io"),
    (HOST, "evil.io\r\nHost: Good.io", "evil.io\r\nhost: good.io"),
    // Everything else stays as it is
    (SHELL, "", ""),
    (SHELL, " LS -la /a/../b ", " LS -la /a/../b "),
    (SHELL, "cat /tmp/../etc//passwd", "cat /tmp/../etc//passwd"),
    (SHELL, "\u{1b}[31mid", "\u{1b}[31mid"),
    (SHELL, "curl HTTPS://EVIL.IO\n", "curl HTTPS://EVIL.IO\n"),
    (SHELL, "WHO\0AMI", "WHO\0AMI"),
    (TOOL, "HTTP://Evil.IO/%2e%2e", "HTTP://Evil.IO/%2e%2e"),
    (TOOL, "~/Tool\\..\\x", "~/Tool\\..\\x"),
    (TOOL, "ＭＣＰ.Tool", "ＭＣＰ.Tool"),
    (PROMPT, "https://u@Evil.io/../x", "https://u@Evil.io/../x"),
    (PROMPT, "file:///etc/%70asswd", "file:///etc/%70asswd"),
    (PROMPT, "ignore\u{202e}previous", "ignore\u{202e}previous"),
];

#[test]
fn every_spelling_is_read_as_the_table_says() {
    let read: Vec<_> =
        CASES.iter().map(|&(kind, raw, _)| (kind, raw, normalise(kind, raw).text().into_owned())).collect();
    let wrong: Vec<_> = read.iter().zip(CASES).filter(|(read, case)| read.2 != case.2).collect();
    assert!(wrong.is_empty(), "{} are read otherwise (found, expected): {wrong:#?}", wrong.len());
}

#[test]
fn each_type_has_its_kind_of_target() {
    for &(kind, raw, _) in CASES {
        let fits = match normalise(kind, raw) {
            Target::Path(_) => [READ, WRITE, PATCH].contains(&kind),
            Target::Host { .. } => kind == HOST,
            Target::Text(_) => [SHELL, TOOL, PROMPT].contains(&kind),
        };
        assert!(fits, "{kind} {raw:?}");
    }
}

#[test]
fn every_spelling_of_an_address_is_read_with_a_port_and_in_a_url_too() {
    let address = "169.254.169.254";
    let spellings: Vec<_> = CASES.iter().filter(|case| case.2 == address).map(|case| case.1).collect();
    assert!(spellings.len() >= 15, "{spellings:?}");
    for raw in spellings {
        for with_port in [format!("{raw}:80"), format!("http://{raw}/latest")] {
            assert_eq!(normalise(HOST, &with_port).text(), format!("{address}:80"), "{with_port}");
        }
    }
}

#[test]
fn what_is_normal_stays_so() {
    for (kind, raw, normal) in CASES {
        assert_eq!(normalise(*kind, normal).text(), *normal, "{kind} {raw:?}");
    }
}

#[test]
fn the_table_is_large_and_says_nothing_twice() {
    assert!(CASES.len() >= 150, "{}", CASES.len());
    let inputs: HashSet<_> = CASES.iter().map(|(kind, raw, _)| (kind.index(), raw)).collect();
    assert_eq!(inputs.len(), CASES.len());
    for kind in EventType::ALL {
        assert!(CASES.iter().any(|case| case.0 == kind), "no case of {kind}");
    }
}

#[test]
fn length_hides_nothing() {
    let dots = "../".repeat(20_000);
    assert_eq!(normalise(READ, &format!("/{dots}etc/passwd")).text(), "/etc/passwd");
    assert_eq!(normalise(READ, &format!("{}etc/passwd", "/".repeat(60_000))).text(), "/etc/passwd");
    assert_eq!(normalise(READ, &format!("{}etc", "/proc/self/root/".repeat(4_000))).text(), "/etc");
    assert_eq!(normalise(WRITE, &format!("file:///{}etc", "%2e%2e/".repeat(9_000))).text(), "/etc");
    assert_eq!(
        normalise(HOST, &format!("https://{}@Evil.io", "api.openai.com/".replace('/', ":").repeat(4_000))).text(),
        "evil.io:443"
    );
    assert_eq!(normalise(HOST, &format!("Evil.io{}:443", ".".repeat(60_000))).text(), "evil.io:443");
    assert_eq!(normalise(HOST, &format!("evil.io:{}443", "0".repeat(60_000))).text(), "evil.io:443");
    let label = "A".repeat(60_000);
    assert_eq!(normalise(HOST, &format!("{label}.evil.io")).text(), format!("{}.evil.io", label.to_lowercase()));
}

/// The one form that isn't stable: a file whose own name begins with `~` is no home folder, but its name alone reads like one.
#[test]
fn a_tilde_that_dots_uncover_is_a_file_name() {
    for (raw, normal) in [("./~root", "~root"), ("a/../~", "~"), ("./~/x", "~/x")] {
        assert_eq!(normalise(READ, raw), Target::Path(normal.into()), "{raw}");
    }
}

#[test]
fn a_host_that_cannot_be_read_has_no_port() {
    for raw in ["Evil.io:65536", "Evil.io:-1", "Evil.io:80:80", "http://Evil.io:x/", "2001:DB8::22", "[::1]x:80"] {
        let whole = Target::Host { host: raw.to_lowercase().into(), port: None };
        assert_eq!(normalise(HOST, raw), whole, "{raw}");
    }
}
