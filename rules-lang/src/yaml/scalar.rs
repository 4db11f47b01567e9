//! The core schema of YAML 1.2: which plain scalars are null, booleans or numbers. `yes`, `no`, `on` and `9:00` are texts.

use super::Value;

/// Why a plain scalar has no value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotFinite;

/// Reads an untagged plain scalar.
pub(super) fn resolve(text: &str) -> Result<Value, NotFinite> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        _ => {}
    }
    match number(text) {
        Some(number) if number.is_finite() => Ok(Value::Number(number + 0.0)),
        Some(_) => Err(NotFinite),
        None => Ok(Value::Text(text.to_owned())),
    }
}

/// The number that a plain scalar is, which may be infinite or none at all (`.nan`).
fn number(text: &str) -> Option<f64> {
    if let Some(digits) = text.strip_prefix("0o") {
        return radix(digits, 8);
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return radix(digits, 16);
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned {
        ".inf" | ".Inf" | ".INF" => return Some(f64::INFINITY),
        _ if matches!(text, ".nan" | ".NaN" | ".NAN") => return Some(f64::NAN),
        _ => {}
    }
    is_decimal(unsigned).then(|| text.parse().ok()).flatten()
}

fn radix(digits: &str, radix: u32) -> Option<f64> {
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    // More than 128 bits is no number that anybody writes down on purpose: it counts as too large.
    Some(u128::from_str_radix(digits, radix).map_or(f64::INFINITY, |n| n as f64))
}

/// `(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_decimal(text: &str) -> bool {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_fits = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['+', '-']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty()) && exponent_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        let number = |text: &str| match resolve(text) {
            Ok(Value::Number(n)) => Some(n),
            _ => None,
        };
        assert_eq!(number("0777"), Some(777.0));
        assert_eq!(number("0o777"), Some(511.0));
        assert_eq!(number("0xFf"), Some(255.0));
        assert_eq!(number("-1.5e3"), Some(-1500.0));
        assert_eq!(number(".5"), Some(0.5));
        assert_eq!(number("5."), Some(5.0));
        for text in
            ["yes", "no", "on", "off", "17:00", "1_000", "0b11", "e3", ".", "+", "1e", "2024-05-07", "0o8", "10.0.0.1"]
        {
            assert!(matches!(resolve(text), Ok(Value::Text(_))), "{text}");
        }
        assert!(matches!(resolve("~"), Ok(Value::Null)));
        assert!(matches!(resolve("TRUE"), Ok(Value::Bool(true))));
        for text in [".inf", "-.Inf", ".nan", "1e999"] {
            assert!(resolve(text).is_err(), "{text}");
        }
    }
}
