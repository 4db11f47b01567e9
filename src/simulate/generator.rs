//! The event generator: agents at normal work, attacks woven in, in order of event time, the same for the same seed.
//! It must stay fast enough to feed a benchmark, so normal work allocates nothing. It reads no clock and does no I/O.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use serde::Serialize;

use super::line::{Clock, decimal, hex, uuid, uuid_v4, uuid_v7};
use super::scenario::{Scenario, Script, Step};
use super::work::{CAN_BE_FRESH, END, Kind, Work, escaped, tail};

/// What to simulate.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Same options, same events.
    pub seed: u64,
    /// Agents, at least 1.
    pub agents: usize,
    /// Sessions of each agent at the same time, at least 1.
    pub sessions_per_agent: usize,
    /// Events after which a session ends and another takes its place, on average; 0: never.
    pub session_events: u32,
    /// Attacks to choose from, in turn; none: no attacks.
    pub scenarios: Vec<Scenario>,
    /// Attacks begun for each event of normal work, 0 to 1.
    pub attack_share: f64,
    /// Event time of the first event, microseconds since 1970.
    pub start: i64,
    /// Events of normal work per second of event time, above 0. Attacks come on top.
    pub rate: f64,
    /// Share of events whose target was never seen before, 0 to about 0.6 (reading files has no part in it).
    pub fresh_targets: f64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            seed: 1,
            agents: 100,
            sessions_per_agent: 2,
            session_events: 1_000,
            scenarios: Scenario::ALL.to_vec(),
            attack_share: 0.000_5,
            start: 0,
            rate: 1_000.0,
            fresh_targets: 0.05,
        }
    }
}

/// An attack whose rule must fire: ground truth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attack {
    /// Which attack.
    pub scenario: Scenario,
    /// Whose session.
    pub agent_id: String,
    /// The session, which holds no other attack.
    pub session_id: String,
    /// Event time of the event that completes the rule's first match, microseconds since 1970.
    pub at: i64,
}

/// What the last line was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emitted<'a> {
    /// Agent and session, the parts of the Kafka key.
    pub key: (&'a str, &'a str),
    /// The guard's verdict, which decides the Kafka topic.
    pub allowed: bool,
    /// Event time, microseconds since 1970; never before the line before.
    pub time: i64,
    /// Which of `agents * sessions_per_agent` concurrent sessions, from 0; all of a session have the same.
    pub slot: usize,
}

/// The generator. Endless; see [`Simulator::next`].
pub struct Simulator {
    rng: SmallRng,
    work: Work,
    clock: Clock,
    names: Names,
    sessions_per_agent: usize,
    /// Concurrent sessions. Small, so that a million of them stay in the processor's cache.
    slots: Vec<Slot>,
    scenarios: Vec<Scenario>,
    turn: usize,
    start: i64,
    /// Microseconds of event time between events of normal work.
    interval: f64,
    index: u64,
    /// Events of normal work between the starts of attacks; 0: none.
    attack_gap: f64,
    next_attack: u64,
    fresh_below: u64,
    end_below: u64,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    attacks: Vec<Attack>,
}

/// One of the concurrent sessions: how many were there before it in its place, and whether an attack is under way in it.
#[derive(Clone, Copy)]
struct Slot(u32);

impl Slot {
    const UNDER_ATTACK: u32 = 1;

    fn under_attack(self) -> bool {
        self.0 & Self::UNDER_ATTACK != 0
    }

    /// Another session takes its place.
    fn renew(&mut self, under_attack: bool) {
        let next = (self.0 & !Self::UNDER_ATTACK).wrapping_add(2);
        self.0 = next | u32::from(under_attack);
    }
}

/// The names of the event being written.
struct Names {
    seed: u64,
    agent: Vec<u8>,
    session: [u8; 36],
}

impl Names {
    /// Ids follow from seed and place alone, so that none has to be kept.
    fn set(&mut self, agent: usize, slot: usize, life: Slot) {
        self.agent.clear();
        self.agent.extend_from_slice(b"agent-");
        decimal(&mut self.agent, agent);
        let place = mix(self.seed ^ mix((slot as u64) << 32 | u64::from(life.0 >> 1)));
        self.session = uuid(uuid_v4(u128::from(place) << 64 | u128::from(mix(place))));
    }

    /// Agent and session; both are ASCII.
    fn key(&self) -> (&str, &str) {
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
        (text(&self.agent), text(&self.session))
    }
}

/// An attack that isn't over. Ordered by the time of its next step.
struct UnderWay {
    at: i64,
    slot: usize,
    step: usize,
    scenario: Scenario,
    script: Script,
}

impl PartialEq for UnderWay {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for UnderWay {}
impl PartialOrd for UnderWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for UnderWay {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // A slot has one attack at a time, so this is total.
        (self.at, self.slot).cmp(&(other.at, other.slot))
    }
}

/// An attack takes no longer than so many events of normal work, so that it ends also in a short run at a high rate.
const ATTACK_SPAN_EVENTS: f64 = 2_000.0;
/// Files that a session reads within [`WORKING_SET_BITS`]: two such sets stay below the brief's 50 distinct files a minute.
const WORKING_SET: u64 = 24;
/// A session turns to other files every 2^26 microseconds, 67 s: more than the rule's minute.
const WORKING_SET_BITS: u32 = 26;
/// One of so many events of normal work is a violation.
const VIOLATION_ONE_IN: u64 = 200;
/// Sessions tried before an attack is put off.
const SLOT_TRIES: usize = 16;

impl Simulator {
    /// A generator at the start of its stream. Numbers out of range are taken as the nearest in range.
    pub fn new(options: Options) -> Self {
        let agents = options.agents.max(1);
        let sessions_per_agent = options.sessions_per_agent.max(1);
        let none = options.scenarios.is_empty() || options.attack_share.is_nan() || options.attack_share <= 0.0;
        let attack_gap = if none { 0.0 } else { 1.0 / options.attack_share.min(1.0) };
        Simulator {
            rng: SmallRng::seed_from_u64(options.seed),
            work: Work::new(),
            clock: Clock::new(),
            names: Names { seed: mix(options.seed), agent: Vec::new(), session: [0; 36] },
            sessions_per_agent,
            slots: vec![Slot(0); agents.saturating_mul(sessions_per_agent)],
            scenarios: options.scenarios,
            turn: 0,
            start: options.start,
            interval: 1e6 / options.rate.max(1e-3),
            index: 0,
            attack_gap,
            // The first comes early, so that a short run has one.
            next_attack: if none { u64::MAX } else { (attack_gap / 2.0) as u64 },
            fresh_below: below(options.fresh_targets / CAN_BE_FRESH),
            end_below: if options.session_events == 0 { 0 } else { below(1.0 / f64::from(options.session_events)) },
            under_way: BinaryHeap::new(),
            attacks: Vec::new(),
        }
    }

    /// Appends the next event to `out`, one JSON line, about 440 bytes, with its line feed. Lines come in order of event time.
    pub fn next<'a>(&'a mut self, out: &mut Vec<u8>) -> Emitted<'a> {
        let time = self.work_time();
        let due = self.under_way.peek().is_some_and(|Reverse(attack)| attack.at <= time);
        if due && let Some(Reverse(attack)) = self.under_way.pop() {
            return self.step(attack, out);
        }
        if self.index >= self.next_attack {
            self.begin_attack(time);
        }
        self.index += 1;
        self.normal(out, time)
    }

    /// Event time of the event that [`Simulator::next`] will write.
    pub fn next_time(&self) -> i64 {
        let work = self.work_time();
        self.under_way.peek().map_or(work, |Reverse(attack)| attack.at.min(work))
    }

    /// Attacks whose completing event was written, in that order, since the last [`Simulator::take_attacks`].
    pub fn attacks(&self) -> &[Attack] {
        &self.attacks
    }

    /// The same, and forgets them: for endless runs.
    pub fn take_attacks(&mut self) -> Vec<Attack> {
        std::mem::take(&mut self.attacks)
    }

    fn work_time(&self) -> i64 {
        self.start.saturating_add((self.index as f64 * self.interval) as i64)
    }

    fn normal<'a>(&'a mut self, out: &mut Vec<u8>, time: i64) -> Emitted<'a> {
        let choice = self.rng.next_u64();
        let slot = scale(choice >> 32, self.slots.len());
        let quiet = self.slots[slot].under_attack();
        let mix = if quiet { &self.work.quiet_mix } else { &self.work.mix };
        let event_type = usize::from(mix[(choice & 0xff) as usize]);
        let kind = &self.work.kinds[event_type];
        let detail = self.rng.next_u64();
        let allowed = quiet || kind.denied.is_empty() || !detail.is_multiple_of(VIOLATION_ONE_IN);

        let id = wide(&mut self.rng);
        self.names.set(slot / self.sessions_per_agent, slot, self.slots[slot]);
        if !quiet && detail.rotate_left(40) < self.end_below {
            self.slots[slot].renew(false);
        }
        begin_line(out, &mut self.clock, id, time, &self.names);
        out.extend_from_slice(&kind.head);
        match kind.fresh {
            Some((before, after)) if detail.rotate_left(20) < self.fresh_below => {
                out.extend_from_slice(before);
                hex(out, (id >> 64) as u64 ^ detail);
                out.extend_from_slice(after);
            }
            _ => out.extend_from_slice(&kind.targets[target(kind, event_type, slot, time, detail)]),
        }
        let tails = if allowed { &kind.allowed } else { &kind.denied };
        out.extend_from_slice(&tails[scale(choice >> 8 & 0xffff_ffff, tails.len())]);
        hex(out, detail ^ choice);
        out.extend_from_slice(END);
        Emitted { key: self.names.key(), allowed, time, slot }
    }

    /// Starts an attack in a session of its own: what came before in the slot can't count for or against it.
    fn begin_attack(&mut self, time: i64) {
        let free = (0..SLOT_TRIES)
            .map(|_| scale(self.rng.next_u64() >> 32, self.slots.len()))
            .find(|slot| !self.slots[*slot].under_attack());
        let Some(slot) = free else { return };
        let jitter = 0.5 + (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        self.next_attack = self.index + (self.attack_gap * jitter).max(1.0) as u64;
        self.slots[slot].renew(true);
        let scenario = self.scenarios[self.turn % self.scenarios.len()];
        self.turn += 1;
        let script = scenario.script(&mut self.rng);
        let at = time + self.pause(&script, 0);
        self.under_way.push(Reverse(UnderWay { at, slot, step: 0, scenario, script }));
    }

    /// The pause before a step: as in the script, but short enough that the attack keeps its span. Never 0, because the
    /// order of events at one time depends on their ids.
    fn pause(&self, script: &Script, step: usize) -> i64 {
        let span = (ATTACK_SPAN_EVENTS * self.interval / script.steps.len() as f64) as i64;
        script.steps[step].pause.min(span).max(1)
    }

    /// An attack's next step.
    fn step<'a>(&'a mut self, mut attack: UnderWay, out: &mut Vec<u8>) -> Emitted<'a> {
        let (slot, time) = (attack.slot, attack.at);
        let step = &attack.script.steps[attack.step];
        let allowed = step.allowed;
        let (id, request) = (wide(&mut self.rng), self.rng.next_u64());
        self.names.set(slot / self.sessions_per_agent, slot, self.slots[slot]);
        begin_line(out, &mut self.clock, id, time, &self.names);
        write_step(out, &self.work, step, request);
        if attack.step == attack.script.completes {
            let (agent_id, session_id) = self.names.key();
            self.attacks.push(Attack {
                scenario: attack.scenario,
                agent_id: agent_id.to_owned(),
                session_id: session_id.to_owned(),
                at: time,
            });
        }
        attack.step += 1;
        if attack.step < attack.script.steps.len() {
            attack.at += self.pause(&attack.script, attack.step);
            self.under_way.push(Reverse(attack));
        } else {
            self.slots[slot].renew(false);
        }
        Emitted { key: self.names.key(), allowed, time, slot }
    }
}

fn begin_line(out: &mut Vec<u8>, clock: &mut Clock, id: u128, time: i64, names: &Names) {
    out.extend_from_slice(b"{\"event_id\":\"");
    out.extend_from_slice(&uuid(uuid_v7(time, id)));
    out.extend_from_slice(b"\",\"schema_version\":1,\"agent_id\":\"");
    out.extend_from_slice(&names.agent);
    out.extend_from_slice(b"\",\"session_id\":\"");
    out.extend_from_slice(&names.session);
    out.extend_from_slice(b"\",\"timestamp\":\"");
    clock.write(out, time);
}

fn write_step(out: &mut Vec<u8>, work: &Work, step: &Step, request: u64) {
    let severity = if step.allowed { "info" } else { "critical" };
    out.extend_from_slice(&work.kinds[step.event_type.index()].head);
    out.extend_from_slice(&escaped(&step.target));
    out.extend_from_slice(&tail(step.event_type, "{}", "policy", step.allowed, severity, step.message, "model-m"));
    hex(out, request);
    out.extend_from_slice(END);
}

/// Which target: anything of the pool, but of files only those that the session works on at this time.
fn target(kind: &Kind, event_type: usize, slot: usize, time: i64, detail: u64) -> usize {
    let pick = detail >> 32;
    if event_type != 0 {
        return scale(pick, kind.targets.len());
    }
    let set = ((slot as u64) << 32 ^ (time >> WORKING_SET_BITS) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (scale(set, kind.targets.len()) + ((pick * WORKING_SET) >> 32) as usize) % kind.targets.len()
}

/// A 32-bit number scaled to `0..n`.
fn scale(random: u64, n: usize) -> usize {
    (((random & 0xffff_ffff) * n as u64) >> 32) as usize
}

/// The bound below which a random 64-bit number lies with this probability.
fn below(probability: f64) -> u64 {
    // Saturates; not a number is 0.
    (probability * 2f64.powi(64)) as u64
}

fn wide(rng: &mut SmallRng) -> u128 {
    u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())
}

/// SplitMix64's output function (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
