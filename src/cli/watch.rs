//! What `alerts watch` and `sessions watch` share: print each change as it arrives, until the engine ends the stream.

use anstyle::Style;
use anyhow::bail;
use serde_json::Value;

use super::Exit;
use super::output::{Format, Out, tell};
use super::sse::Events;

/// A change as a table shows it; the line is escaped.
pub(super) struct Row {
    pub(super) line: String,
    pub(super) style: Style,
}

/// Prints the events named `kind`, under `header` or as JSON lines. Ends only with an error or a closed output.
pub(super) async fn follow(
    mut events: Events,
    kind: &str,
    header: &str,
    format: Format,
    row: impl Fn(&Value) -> Row,
) -> anyhow::Result<Exit> {
    let mut out = Out::new();
    while let Some((name, data)) = events.next().await? {
        match (name.as_str(), format) {
            ("watching", Format::Table) => out.styled(header, Style::new().bold())?,
            (name, Format::Json) if name == kind => out.json_line(&data)?,
            (name, Format::Table) if name == kind => {
                let row = row(&data);
                out.styled(&row.line, row.style)?;
            }
            ("lagged", _) => {
                let missed = &data["missed"];
                tell(&format!(
                    "{missed} changes came faster than they were read and are not shown; list to see what holds now"
                ));
            }
            // Readers ignore events that they don't know.
            _ => {}
        }
        out.flush()?;
    }
    bail!("the engine ended the watch: it is stopping; start the watch again when it is up")
}
