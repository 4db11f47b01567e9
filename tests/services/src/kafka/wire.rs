//! The four requests of Kafka's protocol that starting a broker and its topics take, in versions without tagged fields.
//! Its own tools would take a Java process, and seconds, for each. No client: nothing is produced or consumed here.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const METADATA: (i16, i16) = (3, 4);
const CREATE_TOPICS: (i16, i16) = (19, 4);
const CREATE_PARTITIONS: (i16, i16) = (37, 1);
/// How long the broker may take to answer.
const DEADLINE: Duration = Duration::from_secs(60);
/// Far above any answer to these requests.
const ANSWER_BYTES: usize = 1 << 24;

/// Whether the broker on this port of 127.0.0.1 serves clients: it knows itself as a broker of its cluster.
pub(super) fn brokers(port: u16) -> Result<(), String> {
    let mut answer = metadata(port, &[])?;
    answer.i32()?; // throttle time
    match answer.i32()? {
        n if n > 0 => Ok(()),
        _ => Err("the controller knows no broker yet".into()),
    }
}

/// The number of the broker that leads each partition of a topic, in order; none if the topic isn't known.
pub(super) fn leaders(port: u16, topic: &str) -> Result<Vec<Option<usize>>, String> {
    let mut answer = metadata(port, &[topic])?;
    answer.i32()?; // throttle time
    for _ in 0..answer.i32()? {
        answer.i32()?; // node id
        answer.text()?; // host
        answer.i32()?; // port
        answer.text()?; // rack
    }
    answer.text()?; // cluster id
    answer.i32()?; // controller id
    let mut leaders = BTreeMap::new();
    for _ in 0..answer.i32()? {
        answer.i16()?; // error: seen as partitions without a leader
        answer.text()?; // name
        answer.i8()?; // internal
        for _ in 0..answer.i32()? {
            let error = answer.i16()?;
            let (partition, leader) = (answer.i32()?, answer.i32()?);
            // That a replica is away (9) doesn't matter to clients.
            let led = matches!(error, 0 | 9);
            leaders.insert(partition, usize::try_from(leader).ok().filter(|_| led));
            for _ in 0..2 {
                // replicas, in-sync replicas
                for _ in 0..answer.i32()? {
                    answer.i32()?;
                }
            }
        }
    }
    Ok(leaders.into_values().collect())
}

fn metadata(port: u16, topics: &[&str]) -> Result<Answer, String> {
    let mut request = Request::default();
    request.length(topics.len())?;
    for topic in topics {
        request.text(topic)?;
    }
    request.i8(0); // no topic is created by asking
    request.send(port, METADATA)
}

/// Creates a topic with so many replicas.
pub(super) fn create_topic(
    port: u16,
    name: &str,
    partitions: u32,
    replicas: usize,
    config: &[(&str, &str)],
) -> Result<(), String> {
    let mut request = Request::default();
    request.length(1)?;
    request.text(name)?;
    request.length(partitions as usize)?;
    request.i16(i16::try_from(replicas).map_err(|_| format!("{replicas} replicas don't fit 15 bits"))?);
    request.length(0)?; // assigned by the controller
    request.length(config.len())?;
    for (key, value) in config {
        request.text(key)?;
        request.text(value)?;
    }
    request.milliseconds(DEADLINE);
    request.i8(0); // not only validated
    request.send(port, CREATE_TOPICS)?.results()
}

/// Raises a topic's number of partitions.
pub(super) fn add_partitions(port: u16, name: &str, total: u32) -> Result<(), String> {
    let mut request = Request::default();
    request.length(1)?;
    request.text(name)?;
    request.length(total as usize)?;
    request.i32(-1); // assigned by the controller
    request.milliseconds(DEADLINE);
    request.i8(0); // not only validated
    request.send(port, CREATE_PARTITIONS)?.results()
}

#[derive(Default)]
struct Request(Vec<u8>);

impl Request {
    fn i8(&mut self, value: i8) {
        self.0.extend(value.to_be_bytes());
    }

    fn i16(&mut self, value: i16) {
        self.0.extend(value.to_be_bytes());
    }

    fn i32(&mut self, value: i32) {
        self.0.extend(value.to_be_bytes());
    }

    fn length(&mut self, value: usize) -> Result<(), String> {
        self.i32(i32::try_from(value).map_err(|_| format!("{value} doesn't fit 31 bits"))?);
        Ok(())
    }

    fn milliseconds(&mut self, value: Duration) {
        self.i32(i32::try_from(value.as_millis()).unwrap_or(i32::MAX));
    }

    fn text(&mut self, value: &str) -> Result<(), String> {
        let length =
            i16::try_from(value.len()).map_err(|_| format!("a text of {} bytes; at most 32767", value.len()))?;
        self.i16(length);
        self.0.extend(value.as_bytes());
        Ok(())
    }

    fn send(self, port: u16, (key, version): (i16, i16)) -> Result<Answer, String> {
        let mut header = Self::default();
        header.i16(key);
        header.i16(version);
        header.i32(0); // correlation id: one request a connection
        header.text("clawdstrike-test-services")?;
        let mut framed = Self::default();
        framed.length(header.0.len() + self.0.len())?;
        framed.0.extend(header.0);
        framed.0.extend(self.0);
        exchange(port, &framed.0).map_err(|e| format!("no answer from 127.0.0.1:{port}: {e}"))
    }
}

fn exchange(port: u16, request: &[u8]) -> std::io::Result<Answer> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    stream.write_all(request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > ANSWER_BYTES {
        let what = format!("an answer of {length} bytes; at most {ANSWER_BYTES}");
        return Err(std::io::Error::other(what));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok(Answer { bytes, at: 4 }) // past the correlation id
}

struct Answer {
    bytes: Vec<u8>,
    at: usize,
}

impl Answer {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.first_chunk::<N>().ok_or_else(|| format!("the answer ends at byte {}", self.bytes.len()))?;
        self.at += N;
        Ok(*taken)
    }

    fn i8(&mut self) -> Result<i8, String> {
        self.take().map(i8::from_be_bytes)
    }

    fn i16(&mut self) -> Result<i16, String> {
        self.take().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, String> {
        self.take().map(i32::from_be_bytes)
    }

    /// A text; absent as empty.
    fn text(&mut self) -> Result<String, String> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        let text = self
            .bytes
            .get(self.at..self.at + length)
            .ok_or_else(|| format!("the answer ends at byte {}", self.bytes.len()))?;
        self.at += length;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// The answer to both kinds of creation: for each topic its name, an error code and a message.
    fn results(mut self) -> Result<(), String> {
        self.i32()?; // throttle time
        for _ in 0..self.i32()? {
            self.text()?; // name
            let (error, message) = (self.i16()?, self.text()?);
            if error != 0 {
                return Err(format!("error {error} of kafka's protocol: {message}"));
            }
        }
        Ok(())
    }
}
