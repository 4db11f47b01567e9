//! One statement over PostgreSQL's protocol: what starting a server and creating a database take. Blocking, so that it
//! also works inside an async test; results are read and dropped. The servers here take any password, or ask for none.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long the server may take to answer.
const DEADLINE: Duration = Duration::from_secs(60);
/// Far above any answer to these statements.
const MESSAGE_BYTES: usize = 1 << 20;
const PROTOCOL_3_0: u32 = 196_608;

/// Runs one statement as user `postgres` in database `postgres` on this port of 127.0.0.1, and waits until the server
/// has closed the connection.
pub(crate) fn execute(port: u16, sql: &str) -> Result<(), String> {
    session(port, sql).map_err(|e| format!("can't run \"{sql}\" on 127.0.0.1:{port}: {e}"))
}

fn session(port: u16, sql: &str) -> io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let mut startup = PROTOCOL_3_0.to_be_bytes().to_vec();
    startup.extend(b"user\0postgres\0database\0postgres\0\0");
    stream.write_all(&framed(&startup)?)?;
    until_ready(&mut stream)?;
    let mut query = sql.as_bytes().to_vec();
    query.push(0);
    stream.write_all(b"Q")?;
    stream.write_all(&framed(&query)?)?;
    let outcome = until_ready(&mut stream);
    stream.write_all(b"X")?;
    stream.write_all(&framed(&[])?)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.take(MESSAGE_BYTES as u64).read_to_end(&mut Vec::new())?;
    outcome
}

fn framed(body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(body.len() + 4).map_err(io::Error::other)?;
    Ok([&length.to_be_bytes(), body].concat())
}

/// Reads until the server is ready for a statement; the first error that it told, if any.
fn until_ready(stream: &mut TcpStream) -> io::Result<()> {
    let mut outcome = Ok(());
    loop {
        let (kind, body) = message(stream)?;
        match kind {
            b'Z' => return outcome,
            b'E' if outcome.is_ok() => outcome = Err(io::Error::other(error_text(&body))),
            b'R' if body.iter().any(|byte| *byte != 0) => {
                stream.write_all(b"p")?;
                stream.write_all(&framed(b"any\0")?)?;
            }
            _ => {}
        }
    }
}

fn message(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let [kind, length @ ..] = head;
    let length = (u32::from_be_bytes(length) as usize).saturating_sub(4);
    if length > MESSAGE_BYTES {
        let what = format!("a message of {length} bytes; at most {MESSAGE_BYTES}");
        return Err(io::Error::other(what));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((kind, body))
}

/// The message among an error's fields, each a letter and a text that ends with a zero byte.
fn error_text(body: &[u8]) -> String {
    body.split(|byte| *byte == 0)
        .filter_map(|field| field.strip_prefix(b"M"))
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .next()
        .unwrap_or_else(|| "an error without a message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_an_error_is_found_among_its_fields() {
        let body = b"SERROR\0C42P04\0Mdatabase \"x\" already exists\0\0";
        assert_eq!(error_text(body), "database \"x\" already exists");
        assert_eq!(error_text(b""), "an error without a message");
    }
}
