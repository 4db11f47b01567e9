//! What `alerts watch` and `sessions watch` share: print each change as it arrives. A watch that breaks off is taken up where
//! it was.

use std::time::Duration;

use anstyle::Style;
use reqwest::StatusCode;
use serde_json::Value;

use super::Exit;
use super::client::{Client, Parameter, Refused};
use super::output::{Format, Out, tell};
use super::sse::Events;

/// The wait before a watch that broke off is tried again, and the longest, after some tries.
const AGAIN: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);

/// What is watched.
pub(super) struct Watch {
    pub(super) client: Client,
    /// `alerts` or `sessions`.
    pub(super) list: &'static str,
    pub(super) query: Vec<Parameter<'static>>,
}

/// A change as a table shows it; the line is escaped.
pub(super) struct Row {
    pub(super) line: String,
    pub(super) style: Style,
}

/// Prints the events named `kind`, under `header` or as JSON lines. Ends only with an error or a closed output: where the
/// engine can't be reached in the first place, refuses, or isn't one.
pub(super) async fn follow(
    watch: Watch,
    kind: &str,
    header: &str,
    format: Format,
    row: impl Fn(&Value) -> Row,
) -> anyhow::Result<Exit> {
    let mut out = Out::new();
    let mut last = None;
    let mut events = watch.begin(None).await?;
    if format == Format::Table {
        out.styled(header, Style::new().bold())?;
        out.flush()?;
    }
    loop {
        let event = match events.next().await? {
            Ok(event) => event,
            Err(why) => {
                tell(&format!("{why}; it is taken up again as soon as the engine answers"));
                events = watch.again(last.as_deref()).await?;
                continue;
            }
        };
        let data: Value = serde_json::from_str(&event.data)?;
        match (event.name.as_str(), format) {
            ("watching", _) if last.is_some() => tell("the watch goes on"),
            (name, Format::Json) if name == kind => out.json_line(&data)?,
            (name, Format::Table) if name == kind => {
                let row = row(&data);
                out.styled(&row.line, row.style)?;
            }
            ("reset" | "cut_off", _) => tell(data["reason"].as_str().unwrap_or("the engine gave no reason")),
            // Readers ignore events that they don't know.
            _ => {}
        }
        out.flush()?;
        last = event.id.or(last);
    }
}

impl Watch {
    async fn begin(&self, after: Option<&str>) -> anyhow::Result<Events> {
        self.client.watch(&[self.list, "watch"], &self.query, after).await
    }

    /// Tries until the engine answers. Fails if it refuses for good.
    async fn again(&self, after: Option<&str>) -> anyhow::Result<Events> {
        let mut wait = AGAIN;
        loop {
            tokio::time::sleep(wait).await;
            match self.begin(after).await {
                Err(error) if error.downcast_ref().is_some_and(is_final) => return Err(error),
                Err(_) => wait = LONGEST.min(wait * 2),
                begun => return begun,
            }
        }
    }
}

/// Asking again wouldn't help.
fn is_final(refused: &Refused) -> bool {
    refused.status.is_client_error()
        && ![StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&refused.status)
}
