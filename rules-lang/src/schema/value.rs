//! The schemas of values, for the tables beside the resolvers.

use serde_json::{Value as Json, json};

use crate::duration;
use crate::shape::Shape;

/// Any text.
pub(crate) fn text() -> Json {
    json!({"type": "string"})
}

/// A text that isn't blank.
pub(crate) fn word() -> Json {
    json!({"type": "string", "pattern": "\\S"})
}

/// One of these texts, each with what it means.
pub(crate) fn named<'a>(names: impl IntoIterator<Item = (&'a str, &'a str)>) -> Json {
    let (names, docs): (Vec<_>, Vec<_>) = names.into_iter().unzip();
    json!({"type": "string", "enum": names, "enumDescriptions": docs})
}

/// True or false, and which of the two if the key is left out.
pub(crate) fn flag(default: bool) -> Json {
    json!({"type": "boolean", "default": default})
}

/// A whole number within bounds, both allowed.
pub(crate) fn whole(least: u64, most: u64) -> Json {
    json!({"type": "integer", "minimum": least, "maximum": most})
}

/// A list of these, so many to so many.
pub(crate) fn list(item: Json, least: usize, most: usize) -> Json {
    let mut list = json!({"type": "array", "items": item});
    if least > 0 {
        list["minItems"] = json!(least);
    }
    if most < usize::MAX {
        list["maxItems"] = json!(most);
    }
    list
}

/// A list that may be null, which is an empty one.
pub(crate) fn list_or_null(item: Json) -> Json {
    let mut list = list(item, 0, usize::MAX);
    list["type"] = json!(["array", "null"]);
    list
}

/// One of these names, or a list of up to `most`.
pub(crate) fn names_or_list(names: &[&str], most: usize) -> Json {
    let name = json!({"type": "string", "enum": names});
    json!({"anyOf": [name, list(name.clone(), 1, most)]})
}

/// One text, or a list of `least` to `most` of them.
pub(crate) fn texts(text: Json, least: usize, most: usize) -> Json {
    let mut either = text.clone();
    let list = list(text, least, most);
    // Each keyword speaks of one of the two kinds, so one schema can say both, and says what is wrong with either.
    for (key, value) in list.as_object().into_iter().flatten().filter(|(key, _)| *key != "type") {
        either[key] = value.clone();
    }
    either["type"] = json!(["string", "array"]);
    either
}

/// A duration, whose bounds (in microseconds, both allowed) are told and not checked.
pub(crate) fn duration((least, most): (i64, i64)) -> Json {
    let bounds = format!("From {} to {}.", duration::format(least), duration::format(most));
    json!({"type": "string", "pattern": "^[0-9]+[smhd]$", "examples": ["5m"], "description": bounds})
}

/// A mapping of this shape, by its definition.
pub(crate) fn of(shape: &Shape) -> Json {
    reference(shape.name)
}

/// What stands among the definitions by this name.
pub(crate) fn reference(name: &str) -> Json {
    json!({"$ref": format!("#/$defs/{name}")})
}
