//! The log on standard error, and traces (OTLP over HTTP) where OpenTelemetry's own variables name a collector:
//! `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`. Its other variables hold, too (headers, service name, sampler).
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>
//!
//! Whatever has a span is traced, and nothing of it goes to the log. Spans wait in a bounded queue for a thread of their own; a
//! collector that is slow or away costs spans and nothing else.

use std::io::IsTerminal;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Filters the log.
const FILTER: &str = "CLAWDSTRIKE_LOG";
/// The filter when the variable isn't set.
const DEFAULT_FILTER: &str = "warn,clawdstrike_edr=info";
/// Name a collector.
const COLLECTORS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
/// The name that traces come under.
const SERVICE: &str = "OTEL_SERVICE_NAME";

/// Log and traces of this process. Dropped, it sends the spans that wait.
pub struct Log {
    traces: Option<SdkTracerProvider>,
}

/// Starts them; `traced`: this process has something to trace.
///
/// # Errors
/// A variable can't be read; the text names it and says what was expected.
pub fn start(traced: bool) -> Result<Log, String> {
    let text = std::env::var(FILTER).ok().filter(|text| !text.is_empty()).unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    let filter = EnvFilter::try_new(&text).map_err(|e| {
        format!("{FILTER} is \"{text}\": {e}; expected a filter such as \"info\" or \"clawdstrike_edr::api=debug\"")
    })?;
    let stderr = std::io::stderr();
    let colour = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let lines = tracing_subscriber::fmt::layer().with_ansi(colour).with_writer(std::io::stderr);
    let lines = lines.with_filter(filter.and(filter_fn(|what| what.is_event())));
    let traces = if traced { provider()? } else { None };
    let spans = traces.as_ref().map(|traces| {
        let layer = tracing_opentelemetry::layer().with_tracer(traces.tracer("clawdstrike-edr"));
        // Of ours alone: the exporter's own requests would be traced, too, for ever.
        layer.with_filter(filter_fn(|what| what.is_span() && what.target().starts_with("clawdstrike_edr")))
    });
    tracing_subscriber::registry().with(lines).with(spans).init();
    Ok(Log { traces })
}

fn provider() -> Result<Option<SdkTracerProvider>, String> {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let Some(name) = COLLECTORS.iter().find(|name| is_set(name)) else { return Ok(None) };
    let exporter = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary).build();
    let exporter = exporter.map_err(|e| {
        format!("{name}: {e}; expected the URL of a collector that takes OTLP over HTTP, such as http://127.0.0.1:4318")
    })?;
    let mut resource = Resource::builder();
    if !is_set(&SERVICE) {
        resource = resource.with_service_name("clawdstrike-edr");
    }
    Ok(Some(SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(exporter).build()))
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.traces.as_ref().map(SdkTracerProvider::shutdown) {
            tracing::warn!("the last spans were not sent: {error}");
        }
    }
}
