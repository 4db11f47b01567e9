//! Free loopback ports that stay free, also while the service that owns one is down.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, TcpListener};

/// Below Linux's ephemeral ports (32768 and up), so that no outgoing connection takes one.
const FIRST: u16 = 20_000;
const LAST: u16 = 31_999;
/// Services listen on 127.0.0.1; the claim listens on this address of the same network.
const CLAIM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// More than can be taken at random by other programs.
const TRIES: u16 = 1_000;

/// A port on 127.0.0.1, claimed against all other test processes of this machine.
///
/// The claim is a listener on the same port of 127.0.0.2: the kernel grants it once, and takes it back when the process
/// dies.
pub(crate) struct Port {
    number: u16,
    _claim: TcpListener,
}

impl Port {
    /// Claims a port that nothing listens on.
    pub(crate) fn claim() -> Result<Self, String> {
        let span = LAST - FIRST + 1;
        let start = (RandomState::new().hash_one(std::process::id()) % u64::from(span)) as u16;
        for step in 0..TRIES {
            let number = FIRST + (start + step) % span;
            let Ok(claim) = TcpListener::bind((CLAIM, number)) else {
                continue;
            };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _claim: claim });
            }
        }
        Err(format!(
            "found no free port on 127.0.0.1 in {TRIES} tries from {start} past {FIRST}; stop what listens there"
        ))
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_differ_while_they_are_held() {
        let ports: Vec<Port> = (0..50).map(|_| Port::claim().expect("a free port")).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), ports.len());
    }

    #[test]
    fn a_claimed_port_can_be_listened_on() {
        let port = Port::claim().expect("a free port");
        TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).expect("the port is free for the service");
    }
}
