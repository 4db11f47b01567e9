//! What is an event and what is a dead letter, from outside: a table for every reason, every limit at its edge.

use std::borrow::Cow;

use clawdstrike_telemetry::{
    Event, EventType, MAX_RECORD_BYTES, MAX_TARGET_BYTES, Reason, TOP_LEVEL_FIELDS, decode, is_blank,
};
use serde_json::{Value, json};

/// A record with the required fields alone.
fn minimal() -> Value {
    json!({
        "agent_id": "a", "session_id": "s", "timestamp": "2024-05-06T10:00:00Z", "event_type": "file_access",
        "action": {"target": "/x"}, "result": {"allowed": true},
    })
}

/// `minimal` with the value at `path` (parts of dots) set.
fn with(path: &str, value: Value) -> Value {
    let mut record = minimal();
    let pointer = path.split('.').fold(&mut record, |object, part| &mut object[part]);
    *pointer = value;
    record
}

/// `minimal` without the member at `path`.
fn without(path: &str) -> Value {
    let mut record = minimal();
    let (object, name) = match path.split_once('.') {
        Some((object, name)) => (&mut record[object], name),
        None => (&mut record, path),
    };
    object.as_object_mut().expect("the parent is an object").remove(name);
    record
}

fn reason(raw: impl AsRef<[u8]>) -> Option<Reason> {
    decode(raw.as_ref()).err().map(|letter| letter.reason)
}

/// The reason for a record given as a tree, and for the same record printed with white space.
fn reason_of(record: &Value) -> Option<Reason> {
    let compact = reason(record.to_string());
    let pretty = serde_json::to_vec_pretty(record).expect("a value prints");
    assert_eq!(compact, reason(pretty), "{record}");
    compact
}

/// `minimal` as text, with `more` as its last members.
fn plus(more: &str) -> String {
    let text = minimal().to_string();
    format!("{},{more}}}", &text[..text.len() - 1])
}

#[test]
fn reads_every_field() {
    let raw = r#" {"event_id":"0190","schema_version":1,"tenant_id":"t","agent_id":"a","session_id":"s","seal":{"x":[1]},
        "timestamp":"2024-05-06t12:00:00.0000019+02:00","event_type":"network_egress","extra":{"k":1},
        "action":{"target":"evil.io:443","content_hash":"ff","args":[{}]},
        "result":{"allowed":false,"guard":"g","severity":"CRITICAL","message":"m"},"context":"any"}
"#;
    let event = decode(raw.as_bytes()).expect("all fields are valid");
    let expected = Event {
        agent_id: "a".into(),
        session_id: "s".into(),
        tenant_id: "t".into(),
        event_id: Some("0190".into()),
        timestamp: 1_714_989_600_000_001,
        event_type: EventType::NetworkEgress,
        target: "evil.io:443".into(),
        allowed: false,
        guard: "g".into(),
        severity: "critical".into(),
        message: "m".into(),
        context: "\"any\"",
        args: "[{}]",
        raw: raw.as_bytes(),
    };
    assert_eq!(event, expected);
}

#[test]
fn defaults_stand_for_what_is_absent_or_null() {
    let nulls = r#"{"agent_id":"a","session_id":"s","timestamp":"2024-05-06T10:00:00Z","event_type":"file_access",
        "action":{"target":"/x","content_hash":null,"args":null},
        "result":{"allowed":true,"guard":null,"severity":null,"message":null},
        "context":null,"tenant_id":null,"seal":null,"schema_version":null,"event_id":null}"#;
    let minimal = minimal().to_string();
    for raw in [nulls, &minimal] {
        let event = decode(raw.as_bytes()).expect("null is absent");
        assert_eq!((&*event.tenant_id, event.event_id), ("", None));
        assert_eq!((&*event.guard, &*event.severity, &*event.message), ("", "", ""));
    }
}

#[test]
fn texts_are_borrowed_unless_they_are_escaped() {
    let raw = plus(r#""event_id":"a\u0062c","tenant_id":"é""#);
    let event = decode(raw.as_bytes()).expect("escapes are valid");
    assert!(matches!(event.event_id, Some(Cow::Owned(ref id)) if id == "abc"));
    assert!(matches!(event.tenant_id, Cow::Borrowed("é")));
    assert!(matches!(event.target, Cow::Borrowed("/x")));
    let known = decode_severity("Critical");
    assert!(matches!(known, Cow::Borrowed("critical")), "a usual severity costs no allocation");
    assert_eq!(decode_severity("\u{c4}RGER"), "\u{e4}rger");
}

fn decode_severity(severity: &str) -> Cow<'static, str> {
    let raw = with("result.severity", json!(severity)).to_string();
    match decode(raw.as_bytes()).expect("any text is a severity").severity {
        Cow::Borrowed("critical") => Cow::Borrowed("critical"),
        other => Cow::Owned(other.into_owned()),
    }
}

#[test]
fn escaped_keys_are_the_keys_they_spell() {
    let raw = minimal().to_string().replace("\"agent_id\"", r#""\u0061gent\u005fid""#);
    assert_eq!(decode(raw.as_bytes()).expect("the key is agent_id").agent_id, "a");
    let twice = plus(r#""\u0061gent_id":"b""#);
    assert_eq!(reason(twice), Some(Reason::DuplicateKey));
}

#[test]
fn broken_texts_are_dead_letters() {
    let cases: &[(&[u8], Reason)] = &[
        (b"", Reason::InvalidJson),
        (b"   ", Reason::InvalidJson),
        (b"nonsense", Reason::InvalidJson),
        (b"{", Reason::InvalidJson),
        (b"{\"agent_id\": \"ag1\", ", Reason::InvalidJson),
        (b"\x00\x01", Reason::InvalidJson),
        (b"\xef\xbb\xbf{}", Reason::InvalidJson),
        (b"{} {}", Reason::InvalidJson),
        (b"[1, 2]", Reason::NotAnObject),
        (b"\"text\"", Reason::NotAnObject),
        (b"null", Reason::NotAnObject),
        (b"{\"a\": \"\xff\"}", Reason::InvalidUtf8),
        (b"{\"a\": \"\xed\xa0\x80\"}", Reason::InvalidUtf8),
        (b"{\"a\": \"\xc0\xaf\"}", Reason::InvalidUtf8),
        (b"{}", Reason::MissingField),
    ];
    for (raw, expected) in cases {
        assert_eq!(reason(raw), Some(*expected), "{}", raw.escape_ascii());
    }
    for more in [r#""context":"\ud800""#, r#""x":"\q""#, r#""x":01"#, r#""x":[1,]"#, r#""context":{} x"#, r#""":"#] {
        assert_eq!(reason(plus(more)), Some(Reason::InvalidJson), "{more}");
    }
    for more in [r#""context":{"n":1e400}"#, r#""x":[-1e309]"#, r#""schema_version":1e999"#] {
        assert_eq!(reason(plus(more)), Some(Reason::NumberOutOfRange), "{more}");
    }
}

#[test]
fn a_broken_text_goes_before_a_bad_field_in_any_order() {
    assert_eq!(reason(r#"{"agent_id":"","x":1e999}"#), Some(Reason::NumberOutOfRange));
    assert_eq!(reason(r#"{"x":1e999,"agent_id":""}"#), Some(Reason::NumberOutOfRange));
    assert_eq!(reason(r#"{"agent_id":5,"agent_id":""#), Some(Reason::InvalidJson));
}

#[test]
fn every_required_field_must_be_there() {
    for path in
        ["agent_id", "session_id", "timestamp", "event_type", "action", "action.target", "result", "result.allowed"]
    {
        assert_eq!(reason_of(&without(path)), Some(Reason::MissingField), "{path}");
        assert_eq!(reason_of(&with(path, Value::Null)), Some(Reason::MissingField), "{path}");
        let letter = decode(without(path).to_string().as_bytes()).expect_err("a field is missing").to_string();
        assert!(letter.contains(path), "{letter}");
    }
}

#[test]
fn every_typed_field_must_have_its_type() {
    let texts = [
        "agent_id",
        "session_id",
        "tenant_id",
        "event_id",
        "timestamp",
        "event_type",
        "action.target",
        "action.content_hash",
        "result.guard",
        "result.severity",
        "result.message",
    ];
    let others = [json!(5), json!(true), json!([]), json!({}), json!(["a"]), json!(1.5)];
    for path in texts {
        for value in &others {
            assert_eq!(reason_of(&with(path, value.clone())), Some(Reason::MistypedField), "{path} {value}");
        }
    }
    for value in [json!("false"), json!(0), json!([]), json!({})] {
        assert_eq!(reason_of(&with("result.allowed", value)), Some(Reason::MistypedField));
    }
    for path in ["action", "result"] {
        for value in [json!("x"), json!(0), json!([]), json!(false)] {
            assert_eq!(reason_of(&with(path, value)), Some(Reason::MistypedField), "{path}");
        }
    }
    for path in ["context", "seal", "schema_version", "action.args", "unknown"] {
        for value in &others {
            assert_eq!(reason_of(&with(path, value.clone())), None, "{path} may hold any value");
        }
    }
}

#[test]
fn identifiers_have_1_to_256_bytes_and_no_control_characters() {
    let long = "é".repeat(128);
    for path in ["agent_id", "session_id", "tenant_id"] {
        for good in ["x", " ", "a b", "\u{a0}", "\u{200b}", "ключ", &long] {
            assert_eq!(reason_of(&with(path, json!(good))), None, "{path} {good:?}");
        }
        for bad in ["", &format!("{long}x")] {
            assert_eq!(reason_of(&with(path, json!(bad))), Some(Reason::IdentifierLength), "{path} {bad:?}");
        }
        for bad in ["a\nb", "\0", "\u{7f}", "a\u{85}", "\u{80}", "\u{9f}é", "\u{1b}[31m"] {
            assert_eq!(reason_of(&with(path, json!(bad))), Some(Reason::IdentifierControl), "{path} {bad:?}");
        }
    }
    // 256 bytes of meaning in 1,536 bytes of escapes.
    let escaped = plus(&format!("\"tenant_id\":\"{}\"", "\\u0061".repeat(256)));
    assert_eq!(reason(escaped), None);
    assert_eq!(reason(plus(r#""tenant_id":"a\u0009""#)), Some(Reason::IdentifierControl));
}

#[test]
fn an_event_id_may_be_absent_but_not_empty() {
    assert_eq!(reason_of(&with("event_id", json!(""))), Some(Reason::EmptyEventId));
    assert_eq!(reason_of(&with("event_id", Value::Null)), None);
    assert_eq!(reason_of(&with("event_id", json!("x".repeat(1_000)))), None);
    assert_eq!(reason_of(&with("event_id", json!("a\nb"))), None);
}

#[test]
fn event_types_are_the_seven_names() {
    for event_type in EventType::ALL {
        let raw = with("event_type", json!(event_type)).to_string();
        assert_eq!(decode(raw.as_bytes()).expect("the type is known").event_type, event_type);
    }
    for name in ["any", "teleport", "", "File_Access", "file_access ", "file_acces"] {
        assert_eq!(reason_of(&with("event_type", json!(name))), Some(Reason::UnknownEventType), "{name}");
    }
}

#[test]
fn timestamps_must_be_rfc_3339() {
    for text in ["yesterday", "", "2024-05-06 10:00:05", "2024-02-30T00:00:00Z", "1715000000"] {
        assert_eq!(reason_of(&with("timestamp", json!(text))), Some(Reason::InvalidTimestamp), "{text}");
    }
}

#[test]
fn sizes_are_bounded_at_their_edges() {
    let target = |length: usize| reason_of(&with("action.target", json!("é".repeat(length / 2))));
    assert_eq!(target(MAX_TARGET_BYTES), None);
    assert_eq!(target(MAX_TARGET_BYTES + 2), Some(Reason::TargetTooLong));
    assert_eq!(reason_of(&with("action.target", json!(""))), None);

    let record = |length: usize| {
        let frame = plus(r#""x":"""#).len();
        plus(&format!("\"x\":\"{}\"", "x".repeat(length - frame)))
    };
    assert_eq!(record(MAX_RECORD_BYTES).len(), MAX_RECORD_BYTES);
    assert_eq!(reason(record(MAX_RECORD_BYTES)), None);
    assert_eq!(reason(record(MAX_RECORD_BYTES + 1)), Some(Reason::RecordTooLong));
    assert_eq!(reason(vec![0xff; MAX_RECORD_BYTES + 1]), Some(Reason::RecordTooLong));
}

#[test]
fn depth_counts_the_record_itself() {
    let nested = |levels: usize| plus(&format!("\"context\":{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels)));
    assert_eq!(reason(nested(63)), None);
    assert_eq!(reason(nested(64)), Some(Reason::TooDeep));
    let args = |levels: usize| {
        let args = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        minimal().to_string().replace("\"target\"", &format!("\"args\":{args},\"target\""))
    };
    assert_eq!(reason(args(62)), None);
    assert_eq!(reason(args(63)), Some(Reason::TooDeep));
}

#[test]
fn a_contract_field_twice_is_a_dead_letter_and_another_key_is_not() {
    for name in TOP_LEVEL_FIELDS {
        assert_eq!(reason(format!("{{\"{name}\":null,\"{name}\":null}}")), Some(Reason::DuplicateKey), "{name}");
    }
    for (object, names) in
        [("action", &clawdstrike_telemetry::ACTION_FIELDS[..]), ("result", &clawdstrike_telemetry::RESULT_FIELDS[..])]
    {
        for name in names {
            let raw = format!("{{\"{object}\":{{\"{name}\":null,\"{name}\":null}}}}");
            assert_eq!(reason(raw), Some(Reason::DuplicateKey), "{object}.{name}");
        }
    }
    let unknown = r#""x":1,"x":2,"target":1,"target":2,"context":{"agent_id":1,"agent_id":2,"allowed":1,"allowed":2}"#;
    assert_eq!(reason(plus(unknown)), None);
    let inside = minimal()
        .to_string()
        .replace("{\"target\"", r#"{"agent_id":1,"agent_id":2,"args":{"target":1,"target":2},"target""#);
    assert_eq!(reason(inside), None);
}

#[test]
fn dead_letters_say_where_and_what_and_never_quote_the_record() {
    let letter = decode(br#"{"agent_id": "\u001b[31mevil"}"#).expect_err("a control character").to_string();
    assert!(letter.contains("\"agent_id\"") && letter.contains("256 bytes"), "{letter}");
    assert!(!letter.contains("evil"), "{letter}");
}

#[test]
fn the_document_keeps_unknown_fields_and_drops_the_nulls_of_known_ones() {
    let raw = r#"{"agent_id":"a","session_id":"s","timestamp":"2024-05-06T10:00:00Z","event_type":"file_access",
        "action":{"target":"/x","content_hash":null,"args":{"n":null}},"result":{"allowed":true,"severity":"High","guard":null,"note":null},
        "context":null,"tenant_id":null,"unknown":{"k":[1]},"other":null}"#;
    let expected = json!({
        "agent_id": "a", "session_id": "s", "timestamp": "2024-05-06T10:00:00Z", "event_type": "file_access",
        "action": {"target": "/x", "args": {"n": null}},
        "result": {"allowed": true, "severity": "high", "guard": "", "message": "", "note": null},
        "context": {}, "unknown": {"k": [1]}, "other": null,
    });
    assert_eq!(decode(raw.as_bytes()).expect("nulls are absent").document(), expected);
}

#[test]
fn the_document_holds_doubles_exactly() {
    let raw = plus(r#""context":{"n":5e-324,"m":123456789012345678901234567890,"max":1.797693134862315807e308}"#);
    let document = decode(raw.as_bytes()).expect("the numbers are doubles").document();
    assert_eq!(document["context"], json!({"n": 5e-324, "m": 123456789012345678901234567890.0, "max": f64::MAX}));
}

#[test]
fn blank_lines_are_no_records() {
    for line in ["", "   ", "\t\r", " \r\n"] {
        assert!(is_blank(line.as_bytes()), "{line:?}");
    }
    for line in ["{}", " x", "\0", "\u{a0}"] {
        assert!(!is_blank(line.as_bytes()), "{line:?}");
    }
}
