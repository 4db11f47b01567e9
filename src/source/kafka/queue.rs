//! The client's queue of records and events, read without the safe wrapper: that one keeps an end of partition's topic
//! to itself, so with several topics nobody could tell which partition is caught up, and it allocates for each record.
//! All unsafe code of the sources is here.
//!
//! Knows nothing of what becomes of an event.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode;

use super::Consumer;

/// A record as it lies in the client's memory.
pub(super) struct Record<'a> {
    pub(super) topic: &'a [u8],
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// Empty for a tombstone.
    pub(super) payload: &'a [u8],
    /// Microseconds since 1970, if the broker's clock set it.
    pub(super) append: Option<i64>,
}

/// What the client tells.
pub(super) enum Event<'a> {
    Record(Record<'a>),
    /// A partition was read to its end; `offset` is the next one.
    End {
        topic: Vec<u8>,
        partition: i32,
        offset: i64,
    },
    /// The broker doesn't have the offset that was to be read next; the partition rests until it is given another.
    OutOfRange {
        topic: Vec<u8>,
        partition: i32,
        /// What was to be read; `None` if the log was cut off before it.
        offset: Option<u64>,
    },
    Error {
        code: RDKafkaErrorCode,
        /// The client will not recover.
        fatal: bool,
        text: String,
    },
    /// A commit was answered.
    Committed(Result<(), RDKafkaErrorCode>),
    Log {
        level: RDKafkaLogLevel,
        facility: String,
        text: String,
    },
    /// Nothing that was asked for.
    Other,
}

/// Where a partition ends, as the client was told with the latest records that it fetched; asks nobody.
pub(super) fn end_of(consumer: &Consumer, topic: &str, partition: i32) -> Option<u64> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the pointer is that of a client that `consumer` keeps alive; the name ends with its zero byte, and both
    // numbers are ours.
    let code = unsafe {
        native::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            partition,
            &mut low,
            &mut high,
        )
    };
    match code {
        native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => u64::try_from(high).ok(),
        _ => None,
    }
}

/// The queue of one client.
pub(super) struct Queue {
    queue: NonNull<native::rd_kafka_queue_t>,
    /// Keeps the client alive for as long as the queue.
    _consumer: Arc<Consumer>,
}

impl Queue {
    /// The queue that everything of this client goes to; `None` if the client has no group.
    pub(super) fn new(consumer: Arc<Consumer>) -> Option<Queue> {
        // SAFETY: the pointer is that of a client that `consumer` keeps alive.
        let queue = unsafe { native::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        Some(Queue { queue: NonNull::new(queue)?, _consumer: consumer })
    }

    /// Waits for an event and gives it to `take`; `None` if none came in time.
    pub(super) fn next<T>(&self, wait: Duration, take: impl FnOnce(Event<'_>) -> T) -> Option<T> {
        let millis = c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is ours until it is dropped.
        let event = unsafe { native::rd_kafka_queue_poll(self.queue.as_ptr(), millis) };
        let event = Owned(NonNull::new(event)?);
        Some(take(event.read()))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: it was given to us by `rd_kafka_queue_get_consumer`, and this is the only time it is given back; the
        // client is still there, since fields are dropped after this.
        unsafe { native::rd_kafka_queue_destroy(self.queue.as_ptr()) }
    }
}

/// An event that is given back when it goes out of scope, and all that was read from it with it.
struct Owned(NonNull<native::rd_kafka_event_t>);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: `rd_kafka_queue_poll` gave it to us, and this is the only time it is given back.
        unsafe { native::rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

impl Owned {
    fn read(&self) -> Event<'_> {
        // SAFETY: the event is ours.
        match unsafe { native::rd_kafka_event_type(self.0.as_ptr()) } {
            native::RD_KAFKA_EVENT_FETCH => self.record(),
            native::RD_KAFKA_EVENT_ERROR => self.error(),
            native::RD_KAFKA_EVENT_LOG => self.log(),
            native::RD_KAFKA_EVENT_OFFSET_COMMIT => Event::Committed(self.code()),
            _ => Event::Other,
        }
    }

    /// The event's error, if it has one.
    fn code(&self) -> Result<(), RDKafkaErrorCode> {
        // SAFETY: the event is ours.
        match unsafe { native::rd_kafka_event_error(self.0.as_ptr()) } {
            native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            code => Err(code.into()),
        }
    }

    fn record(&self) -> Event<'_> {
        // SAFETY: the event is ours; a message that it gives lives as long as the event, and so do its topic's name and
        // its payload, which has `len` bytes unless it is null.
        unsafe {
            let Some(message) = native::rd_kafka_event_message_next(self.0.as_ptr()).as_ref() else {
                return Event::Other;
            };
            if message.rkt.is_null() {
                return Event::Other;
            }
            let payload: &[u8] = match NonNull::new(message.payload.cast::<u8>()) {
                Some(start) => std::slice::from_raw_parts(start.as_ptr(), message.len),
                None => &[],
            };
            let mut kind = native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
            let millis = native::rd_kafka_message_timestamp(message, &mut kind);
            let appended = kind == native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME;
            Event::Record(Record {
                topic: bytes(native::rd_kafka_topic_name(message.rkt)),
                partition: message.partition,
                offset: message.offset,
                payload,
                append: appended.then(|| millis.saturating_mul(1000)),
            })
        }
    }

    fn error(&self) -> Event<'_> {
        let Err(code) = self.code() else {
            return Event::Other;
        };
        if matches!(code, RDKafkaErrorCode::PartitionEOF | RDKafkaErrorCode::AutoOffsetReset) {
            let Some((topic, partition, offset)) = self.place() else {
                return Event::Other;
            };
            return match code {
                RDKafkaErrorCode::PartitionEOF => Event::End { topic, partition, offset },
                _ => Event::OutOfRange { topic, partition, offset: u64::try_from(offset).ok() },
            };
        }
        // SAFETY: the event is ours, and its text lives as long as it.
        let (fatal, text) = unsafe {
            let text = bytes(native::rd_kafka_event_error_string(self.0.as_ptr()));
            (native::rd_kafka_event_error_is_fatal(self.0.as_ptr()) != 0, String::from_utf8_lossy(text).into_owned())
        };
        Event::Error { code, fatal, text }
    }

    /// Topic, partition and offset that an error is about.
    fn place(&self) -> Option<(Vec<u8>, i32, i64)> {
        // SAFETY: the event is ours. What it gives is a copy that is to be given back, and its texts with it; until then
        // they are there.
        unsafe {
            let copy = native::rd_kafka_event_topic_partition(self.0.as_ptr());
            let place = copy.as_ref()?;
            let (partition, offset) = (place.partition, place.offset);
            let topic = bytes(place.topic).to_vec();
            native::rd_kafka_topic_partition_destroy(copy);
            Some((topic, partition, offset))
        }
    }

    fn log(&self) -> Event<'_> {
        let mut facility: *const c_char = std::ptr::null();
        let mut text: *const c_char = std::ptr::null();
        let mut level: c_int = 0;
        // SAFETY: the event is ours, and the texts live as long as it.
        unsafe {
            let said = native::rd_kafka_event_log(self.0.as_ptr(), &mut facility, &mut text, &mut level);
            if said != 0 {
                return Event::Other;
            }
            let owned = |text| String::from_utf8_lossy(bytes(text)).into_owned();
            Event::Log { level: level_of(level), facility: owned(facility), text: owned(text) }
        }
    }
}

/// The levels of syslog.
fn level_of(level: c_int) -> RDKafkaLogLevel {
    match level {
        ..=0 => RDKafkaLogLevel::Emerg,
        1 => RDKafkaLogLevel::Alert,
        2 => RDKafkaLogLevel::Critical,
        3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        7.. => RDKafkaLogLevel::Debug,
    }
}

/// A C text without its end; empty if there is none.
///
/// # Safety
/// `text` is null, or a text that ends in zero and lives as long as `'a`.
unsafe fn bytes<'a>(text: *const c_char) -> &'a [u8] {
    if text.is_null() {
        return &[];
    }
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}
