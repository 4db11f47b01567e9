//! Sigma correlations: several events of one group, counted or put in order.

use super::emit::Yaml;
use super::expr::{Conjunction, add};
use super::logsource::{Place, Source, Target};
use super::matcher::{self, Matcher};
use crate::context::{Context, Keys};
use crate::diagnostic::{Span, quoted};
use crate::suggest;
use crate::yaml::{Node, Value};

/// A rule that a correlation may speak of.
pub(super) struct Base {
    pub(super) names: Vec<String>,
    /// `None` if the rule is refused, or is a correlation itself.
    pub(super) detects: Option<Detects>,
}

/// What a plain rule finds.
#[derive(Clone, Debug)]
pub(super) struct Detects {
    pub(super) source: Source,
    pub(super) alternatives: Vec<Conjunction>,
}

const TYPES: [&str; 4] = ["event_count", "value_count", "temporal", "temporal_ordered"];
const MAX_RULES: usize = 64;

/// Reads `rules`: what they are called by, and the places of it.
pub(super) fn names<'n>(cx: &mut Context<'_>, keys: &mut Keys<'n>) -> Option<Vec<(&'n str, Span)>> {
    let node = keys.require(cx, "rules", "a correlation", "[first_rule, second_rule]")?;
    cx.texts(node, "\"rules\"", MAX_RULES)
}

/// The group and the condition of our rule.
pub(super) fn read(
    cx: &mut Context<'_>,
    mut keys: Keys<'_>,
    names: &[(&str, Span)],
    bases: &[Base],
) -> Option<(Yaml, Yaml)> {
    let kind = keys.require(cx, "type", "a correlation", "event_count")?;
    let window = keys.require(cx, "timespan", "a correlation", "5m").and_then(|node| timespan(cx, node));
    let (group, condition) = (keys.take("group-by"), keys.take("condition"));
    keys.take("generate");
    if let Some((key, _)) = keys.entry("aliases") {
        cx.error(key.span, "E097", "\"aliases\" can't be expressed: a group has the same fields in all events")
            .hint("group by a field that all rules have, such as User");
        return None;
    }
    keys.finish(cx, "a correlation", &["type", "rules", "group-by", "timespan", "condition", "aliases", "generate"]);
    let rules: Vec<&Detects> = names.iter().filter_map(|(name, at)| base(cx, name, *at, bases)).collect();
    if rules.len() < names.len() {
        return None;
    }
    let by = group_by(cx, group, &rules)?;
    let window = Yaml::Text(window?);
    let kind_name = cx.text(kind, "\"type\"")?;
    let keys = match kind_name {
        "event_count" | "value_count" => {
            let node = condition.or_else(|| {
                cx.error(kind.span, "E012", "this correlation has no \"condition\"").hint("add `condition: {gte: 10}`");
                None
            })?;
            let (count, field) = count(cx, node)?;
            let mut matcher = together(cx, names, &rules)?;
            let mut keys = vec![("type", Yaml::text("threshold")), ("window", window)];
            match (kind_name, field) {
                ("event_count", None) => keys.push(("count", count)),
                ("value_count", Some(field)) => {
                    let path = same_field(cx, field, &rules)?;
                    let distinct = [("field", Yaml::Text(path)), ("op", count)];
                    keys.push(("distinct", owned(distinct)));
                }
                ("event_count", Some(field)) => {
                    cx.error(field.span, "E097", "event_count counts events, not values of a field")
                        .hint("write type value_count, or leave the field out");
                    return None;
                }
                _ => {
                    cx.error(node.span, "E012", "value_count has no \"field\" in its condition")
                        .hint("add `field: User`");
                    return None;
                }
            }
            let mut keys: Matcher = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            keys.append(&mut matcher);
            keys
        }
        "temporal" | "temporal_ordered" => {
            if let Some(node) = condition {
                cx.error(node.span, "E097", "a temporal correlation with a condition can't be expressed").hint(
                    "leave it out: all the rules must be found; write other combinations as correlations of their own",
                );
                return None;
            }
            let matchers: Vec<Option<Matcher>> =
                names.iter().zip(&rules).map(|(name, rule)| together(cx, &[*name], &[rule])).collect();
            let matchers = matchers.into_iter().map(|m| m.map(Yaml::Map)).collect::<Option<Vec<_>>>()?;
            let (name, list) = if kind_name == "temporal" { ("pattern", "all_of") } else { ("sequence", "events") };
            [("type", Yaml::text(name)), ("window", window), (list, Yaml::List(matchers))]
                .map(|(key, value)| (key.to_owned(), value))
                .to_vec()
        }
        _ => {
            cx.error(kind.span, "E097", format!("correlation type {} can't be expressed", quoted(kind_name)))
                .hint(suggest::hint(kind_name, &TYPES));
            return None;
        }
    };
    Some((by, Yaml::Map(keys)))
}

fn owned<const N: usize>(entries: [(&str, Yaml); N]) -> Yaml {
    Yaml::Map(entries.map(|(key, value)| (key.to_owned(), value)).to_vec())
}

fn base<'b>(cx: &mut Context<'_>, name: &str, at: Span, bases: &'b [Base]) -> Option<&'b Detects> {
    let found = bases.iter().find(|base| base.names.iter().any(|known| known == name));
    match found {
        Some(Base { detects: Some(detects), .. }) => return Some(detects),
        Some(_) => {
            cx.error(
                at,
                "E098",
                format!("rule {} can't be correlated: it is refused, or a correlation itself", quoted(name)),
            )
            .hint("correct that rule first; correlations of correlations have no counterpart");
        }
        None => {
            let known = bases.iter().flat_map(|base| base.names.iter().map(String::as_str));
            let hint = match suggest::nearest(name, known) {
                Some(near) => format!("did you mean {}?", quoted(near)),
                None => "give the file of that rule too; rules are called by `name` or `id`".to_owned(),
            };
            cx.error(at, "E098", format!("no rule is called {}", quoted(name))).hint(hint);
        }
    }
    None
}

/// One matcher for all alternatives of these rules.
fn together(cx: &mut Context<'_>, names: &[(&str, Span)], rules: &[&Detects]) -> Option<Matcher> {
    let at = names.first().map(|(_, at)| *at).unwrap_or_default();
    let source = rules.first().map(|rule| &rule.source)?;
    let mut all = Vec::new();
    for conjunction in rules.iter().flat_map(|rule| &rule.alternatives) {
        add(&mut all, conjunction.clone());
    }
    if rules.iter().any(|rule| rule.source != *source) {
        cx.error(at, "E097", "rules of different log sources can't be counted together")
            .hint("a count has one matcher: write a correlation for each, or a temporal one");
        return None;
    }
    match all.as_slice() {
        [one] => matcher::write(cx, source, one),
        [] => {
            cx.error(at, "E097", "this rule never finds an event").hint("see the warnings above");
            None
        }
        more => {
            let message = format!("this needs {} matchers, but a count or a step has one", more.len());
            cx.error(at, "E097", message)
                .hint("alternatives of one field become one matcher; write rules and correlations for the others");
            None
        }
    }
}

/// Days for weeks; months and years are beyond our windows.
fn timespan(cx: &mut Context<'_>, node: &Node) -> Option<String> {
    let text = cx.text(node, "\"timespan\"")?;
    if let Some(weeks) = text.strip_suffix('w').and_then(|weeks| weeks.parse::<u32>().ok()) {
        return Some(format!("{}d", u64::from(weeks) * 7));
    }
    let micros = crate::duration::parse(text);
    let (least, most) = crate::resolve::WINDOW;
    if micros.is_none_or(|micros| !(least..=most).contains(&micros)) {
        cx.error(node.span, "E097", format!("timespan {} can't be expressed", quoted(text)))
            .hint("windows are 1s to 7d: a whole number and s, m, h, d or w");
        return None;
    }
    Some(text.to_owned())
}

/// `{gte: 10, field: User}` as a comparison of ours, and the field.
fn count<'n>(cx: &mut Context<'_>, node: &'n Node) -> Option<(Yaml, Option<&'n Node>)> {
    let mut keys = cx.keys(node, "\"condition\"")?;
    let field = keys.take("field");
    let rest = keys.rest();
    let [(key, value)] = rest.as_slice() else {
        cx.error(node.span, "E097", "a count is compared once").hint("write `gte` or `gt`, and nothing else");
        return None;
    };
    let operator = match key.name.as_str() {
        "gte" => ">=",
        "gt" => ">",
        name => {
            cx.error(key.span, "E097", format!("counts can't be compared by {}", quoted(name)))
                .hint("gte or gt: a match ends at an event, and further events only add to a count");
            return None;
        }
    };
    match value.value {
        Value::Number(number) if number.fract() == 0.0 && number >= 0.0 => {
            Some((Yaml::Text(format!("{operator} {number}")), field))
        }
        _ => {
            cx.mistyped(value, &format!("\"{}\"", key.name), "a whole number");
            None
        }
    }
}

/// The widest group if there is no `group-by`.
fn group_by(cx: &mut Context<'_>, node: Option<&Node>, rules: &[&Detects]) -> Option<Yaml> {
    let items: Vec<&Node> = match node {
        None => return Some(Yaml::List(vec![Yaml::text("tenant_id")])),
        Some(Node { value: Value::List(items), .. }) if !items.is_empty() => items.iter().collect(),
        Some(node) => vec![node],
    };
    let mut paths: Vec<String> = Vec::new();
    for item in items {
        let path = same_field(cx, item, rules)?;
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    Some(Yaml::texts(&paths))
}

/// The path of a field that all rules have at the same place.
fn same_field(cx: &mut Context<'_>, node: &Node, rules: &[&Detects]) -> Option<String> {
    let name = cx.word(node, "a field")?;
    let mut path: Option<String> = None;
    for rule in rules {
        let here = match rule.source.place(cx, name, node.span)? {
            Place::Field(path) => path,
            Place::Target => "target".to_owned(),
            Place::Program | Place::Port | Place::Always(_) => {
                cx.error(
                    node.span,
                    "E097",
                    format!("field {} is only a part of ours, and can't be counted", quoted(name)),
                )
                .hint("use the field that holds all of the target");
                return None;
            }
        };
        if path.is_none() && here == "target" && rule.source.target == Target::Host {
            cx.warn(node.span, "W020", "values of this field are hosts with their port")
                .hint("one host on two ports is two values");
        }
        if path.as_ref().is_some_and(|path| *path != here) {
            cx.error(node.span, "E097", format!("field {} isn't the same in all of the rules", quoted(name)))
                .hint("group by a field that all rules have, such as User");
            return None;
        }
        path = Some(here);
    }
    path
}
