//! The scanner against RFC 8259 by table, and against serde_json by property.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn verdict(text: &str) -> Result<(), Reason> {
    Scanner::check(text).map_err(|fault| fault.reason)
}

#[test]
fn accepts_what_rfc_8259_accepts() {
    for text in [
        "0",
        "-0",
        "1.5e-3",
        "1E+2",
        " [ ] ",
        "{}",
        "\t{ \"a\" : [ 1 , { } ] }\r\n",
        "\"\"",
        "\"\\u00e9\\n\\/\"",
        "\"\\ud83d\\ude00\"",
        "\"\u{7f}\u{2028}\"",
        "[null,true,false]",
        "1e-99999999999999999999",
        "0e999999999999",
    ] {
        assert_eq!(verdict(text), Ok(()), "{text}");
    }
}

#[test]
fn refuses_what_rfc_8259_refuses() {
    for text in [
        "",
        " ",
        "01",
        "-",
        "+1",
        ".5",
        "1.",
        "1e",
        "1e+",
        "0x1",
        "NaN",
        "nul",
        "truefalse",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{\"a\":1 \"b\":2}",
        "[}",
        "{]",
        "[",
        "{",
        "\"",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\n\"",
        "\"\u{1f}\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\n\"",
        "\"\\ud800\\ud800\"",
        "\"\\ud800x\"",
        "1 2",
        "[] x",
        "\u{feff}1",
        "'a'",
        "[1]]",
        "\u{b}1",
        "\u{a0}1",
        "\0",
    ] {
        assert_eq!(verdict(text), Err(Reason::InvalidJson), "{text}");
    }
}

#[test]
fn depth_is_bounded_at_64() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(verdict(&nested(64)), Ok(()));
    assert_eq!(verdict(&nested(65)), Err(Reason::TooDeep));
    assert_eq!(verdict(&"{\"a\":".repeat(100_000)), Err(Reason::TooDeep));
    // Side by side isn't deep.
    assert_eq!(verdict(&format!("[{}[]]", "[],".repeat(1_000))), Ok(()));
}

#[test]
fn numbers_are_bounded_by_what_rounds_to_a_double() {
    let zeros = |count| "0".repeat(count);
    let finite = [
        "1.7976931348623158e308".to_owned(),
        "-1.797693134862315807e308".to_owned(),
        format!("17976931348623157{}", zeros(292)),
        format!("0.{}1e800400", zeros(800_200)),
        format!("1{}e-100000", zeros(100_300)),
    ];
    let beyond = [
        "1e309".to_owned(),
        "-1e400".to_owned(),
        "1.797693134862315808e308".to_owned(),
        "1e99999999999999999999".to_owned(),
        format!("18{}", zeros(307)),
        format!("1{}", zeros(400)),
        format!("0.{}1e800600", zeros(800_200)),
    ];
    for number in finite {
        assert_eq!(verdict(&number), Ok(()), "{number:.40}");
        assert!(serde_json::from_str::<Value>(&number).is_ok(), "{number:.40}");
    }
    for number in beyond {
        assert_eq!(verdict(&number), Err(Reason::NumberOutOfRange), "{number:.40}");
        assert!(serde_json::from_str::<Value>(&number).is_err(), "{number:.40}");
    }
}

/// JSON, and things that nearly are.
fn near_json() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        4 => prop::sample::select(vec!["{", "}", "[", "]", ",", ":", "\"a\":", "\"\"", " "]),
        2 => prop::sample::select(vec![
            "1", "-0", "1e", ".5", "2e308", "1e309", "179769313486231570000e290", "1.8e+308", "-12.50E-3", "null", "true",
            "false", "\"\\u0041\"", "\"\\ud83d\\ude00\"", "\"\\ud83d\"", "\"\\q\"", "\"é\u{7f}\"", "\t", "\u{1}", "\"",
            "\"long enough to fill a word\"", "\\",
        ]),
    ];
    prop::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat())
}

/// Valid JSON of any shape, printed loosely.
fn json() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Value::from),
        any::<i64>().prop_map(Value::from)
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number,
        any::<String>().prop_map(Value::from)
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
    .prop_map(|value| serde_json::to_string_pretty(&value).expect("a value prints"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn agrees_with_serde_json_on_near_json(text in near_json()) {
        prop_assert_eq!(Scanner::check(&text).is_ok(), serde_json::from_str::<Value>(&text).is_ok());
    }

    #[test]
    fn agrees_with_serde_json_on_any_text(text in any::<String>()) {
        prop_assert_eq!(Scanner::check(&text).is_ok(), serde_json::from_str::<Value>(&text).is_ok());
    }

    #[test]
    fn accepts_what_serde_json_prints_and_refuses_each_truncation(text in json(), cut in any::<prop::sample::Index>()) {
        prop_assert_eq!(Scanner::check(&text), Ok(()));
        let cut = cut.index(text.len());
        if let Some(head) = text.get(..cut) {
            prop_assert_eq!(Scanner::check(head).is_ok(), serde_json::from_str::<Value>(head).is_ok());
        }
    }

    #[test]
    fn strings_mean_what_serde_json_says(text in any::<String>(), escape_all in any::<bool>()) {
        let quoted = if escape_all {
            let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            format!("\"{units}\"")
        } else {
            serde_json::to_string(&text).expect("a text prints")
        };
        let mut scanner = Scanner::new(&quoted);
        let read = scanner.string().expect("a printed text is valid");
        prop_assert_eq!(scanner.decode(read), text.as_str());
        prop_assert_eq!(read.escaped, quoted.contains('\\'));
    }
}
