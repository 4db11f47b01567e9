//! Writes rules of ours as YAML text.

/// A value to write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Yaml {
    Text(String),
    Number(f64),
    Bool(bool),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    pub(super) fn text(text: &str) -> Yaml {
        Yaml::Text(text.to_owned())
    }

    pub(super) fn texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> Yaml {
        Yaml::List(texts.into_iter().map(|text| Yaml::text(text)).collect())
    }

    /// On one line.
    fn flow(&self) -> String {
        match self {
            Yaml::Text(text) => scalar(text),
            Yaml::Number(number) => number.to_string(),
            Yaml::Bool(flag) => flag.to_string(),
            Yaml::List(items) => format!("[{}]", items.iter().map(Yaml::flow).collect::<Vec<_>>().join(", ")),
            Yaml::Map(entries) => {
                let entries: Vec<_> = entries.iter().map(|(k, v)| format!("{}: {}", scalar(k), v.flow())).collect();
                format!("{{{}}}", entries.join(", "))
            }
        }
    }
}

/// A rule as an item of `rules`.
pub(super) fn rule(entries: &[(String, Yaml)]) -> String {
    let mut out = String::new();
    item(&mut out, entries, 2);
    out
}

/// A mapping as an item of a list, its keys below each other; matchers stand on one line each.
fn item(out: &mut String, entries: &[(String, Yaml)], indent: usize) {
    for (index, (key, value)) in entries.iter().enumerate() {
        let lead = if index == 0 { format!("{}- ", " ".repeat(indent)) } else { " ".repeat(indent + 2) };
        entry(out, &lead, key, value, indent + 4);
    }
}

fn entry(out: &mut String, lead: &str, key: &str, value: &Yaml, indent: usize) {
    let indented = " ".repeat(indent);
    match value {
        Yaml::List(items) if matches!(key, "conditions" | "events" | "all_of" | "matchers") => {
            *out += &format!("{lead}{}:\n", scalar(key));
            for each in items {
                match each {
                    Yaml::Map(entries) => item(out, entries, indent),
                    other => *out += &format!("{indented}- {}\n", other.flow()),
                }
            }
        }
        Yaml::Map(entries) if key == "any_of" => {
            *out += &format!("{lead}{}:\n", scalar(key));
            for (key, value) in entries {
                entry(out, &indented, key, value, indent + 2);
            }
        }
        value => *out += &format!("{lead}{}: {}\n", scalar(key), value.flow()),
    }
}

/// A text, in quotes unless it is a plain word.
fn scalar(text: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(word)
        && !["true", "false", "null"].contains(&text.to_lowercase().as_str());
    if plain {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            // What has no shape of its own may be invisible, or turn the line around.
            c if !c.is_ascii() && c.is_alphanumeric() => out.push(c),
            c => out += &format!("\\U{:08X}", u32::from(c)),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_look_like_something_else_are_quoted() {
        assert_eq!(scalar("shell_command"), "shell_command");
        for (text, written) in [
            ("1m", "\"1m\""),
            ("", "\"\""),
            ("No: x", "\"No: x\""),
            ("True", "\"True\""),
            ("a\u{1b}\\", "\"a\\U0000001B\\\\\""),
        ] {
            assert_eq!(scalar(text), written);
        }
    }
}
