//! Server-sent events as they arrive (WHATWG HTML, "event stream"), as far as the engine sends them: `event`, `id` and `data`.
//!
//! Knows nothing of what an event says.

use std::collections::VecDeque;

use anyhow::bail;
use reqwest::Response;

use super::client::root_cause;

/// The longest event, in bytes.
const MAX_EVENT: usize = 8 * 1024 * 1024;

/// One event.
#[derive(Debug, PartialEq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: String,
    /// Names how far the stream has come with it.
    pub(super) id: Option<String>,
}

/// The events of one response.
pub(super) struct Events {
    response: Response,
    parser: Parser,
    ready: VecDeque<Event>,
}

impl Events {
    pub(super) fn new(response: Response) -> Events {
        Events { response, parser: Parser::default(), ready: VecDeque::new() }
    }

    /// The next event; `Err` with why there is none any more. Fails if this can't be an engine's.
    pub(super) async fn next(&mut self) -> anyhow::Result<Result<Event, String>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Ok(event));
            }
            let chunk = match self.response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(Err("the engine ended the watch".into())),
                Err(error) => return Ok(Err(format!("the watch broke off: {}", root_cause(&error)))),
            };
            self.parser.push(&chunk, &mut self.ready)?;
        }
    }
}

#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    name: String,
    data: String,
    id: Option<String>,
}

impl Parser {
    fn push(&mut self, bytes: &[u8], ready: &mut VecDeque<Event>) -> anyhow::Result<()> {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.data.len() > MAX_EVENT {
                bail!("an event of the watch is longer than {MAX_EVENT} bytes: is it an engine's API? check --api");
            }
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                ready.extend(self.end_line(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n'])));
            }
        }
        Ok(())
    }

    fn end_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let data = std::mem::take(&mut self.data);
            let id = self.id.take();
            return (!data.is_empty()).then_some(Event { name, data, id });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = value.to_owned(),
            "data" => self.data.push_str(value),
            "id" => self.id = Some(value.to_owned()),
            // Comments, which keep the connection alive, and fields that the engine doesn't send.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let text = ": hello\n\nevent: alert\r\nid: 1-2\r\ndata: {\"a\":\"ü\"}\r\n\r\ndata:1\n\n";
        let event = |name: &str, data: &str| Event {
            name: name.into(),
            data: data.into(),
            id: (!name.is_empty()).then(|| "1-2".into()),
        };
        for size in 1..=text.len() {
            let (mut parser, mut ready) = (Parser::default(), VecDeque::new());
            for chunk in text.as_bytes().chunks(size) {
                parser.push(chunk, &mut ready).expect("short events");
            }
            assert_eq!(ready, [event("alert", "{\"a\":\"ü\"}"), event("", "1")], "chunks of {size}");
        }
    }

    #[test]
    fn an_endless_event_is_an_error() {
        let (mut parser, mut ready) = (Parser::default(), VecDeque::new());
        let chunk = vec![b'x'; MAX_EVENT + 1];
        assert!(parser.push(&chunk, &mut ready).is_err());
    }
}
