//! Bytes as lower-case hexadecimal digits.

/// Two digits a byte.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that such a text stands for; `None`: it stands for none.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    if !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?, 16).ok();
    text.as_bytes().chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_nothing_else_is() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)), Some(all));
        assert_eq!((encode([0, 0xaf]), decode("")), ("00af".to_owned(), Some(Vec::new())));
        for text in ["0", "+f", "zz", "é", "00é0", "0g"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
