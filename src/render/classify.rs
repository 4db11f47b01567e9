//! Classifying: which matchers an event satisfies, found by memory. A target, an agent or a combination of outcomes seen
//! before costs one look-up; only a new one is tried against the rules' patterns.
//!
//! Classes are interned by the atoms that hit (patterns found, tests passed), never by the matchers that follow from
//! them: a hundred `target_not_in` lists would make every host a class of its own. Memories are bounded and start again
//! when full.

use clawdstrike_rules::plan::{AllowEntry, HostPart, Matcher, TargetPattern, Test};
use clawdstrike_telemetry::{Event, EventType, target};
use hashbrown::HashMap;

use super::class::{CLASS_BITS, ClassDef};
use super::field::{CompiledTest, Fields, Place, regex, scalar_bytes};
use super::key::{Hashed, Hasher};
use super::patterns::Patterns;
use super::rules::{AllowId, MatcherId, Rules};
use crate::time_window::Times;
use crate::view::Held;

/// Targets and agents remembered before a memory starts again.
const MEMORY: usize = 1 << 17;
/// What is known of a target.
#[derive(Clone, Copy)]
struct KnownTarget {
    /// Hash of the normalised text.
    hash: u64,
    /// Which set of target atoms hit.
    hits: u32,
}

/// What classifying an event gives.
pub struct Classified {
    /// The class.
    pub class: u32,
    /// Hash of the normalised target's text; never 0.
    pub target: u64,
}

impl Classified {
    /// The class's number within its worker.
    pub fn number(&self) -> usize {
        self.class as usize & ((1 << CLASS_BITS) - 1)
    }
}

/// Part of a matcher: an atom must have hit, or must not.
struct Need {
    atom: u32,
    hit: bool,
}

struct CompiledMatcher {
    id: MatcherId,
    types: u8,
    targets: Vec<Need>,
    fields: Vec<Need>,
}

struct Allow {
    id: AllowId,
    entry: AllowEntry,
    agent: Option<regex::Regex>,
    targets: Option<u32>,
    times: Option<Times>,
}

/// A rule set's matchers, ready to be tried on events.
struct Compiled {
    paths: Patterns,
    hosts: Patterns,
    host_ports: Patterns,
    texts: Patterns,
    fields: Vec<(Place, Vec<(u32, CompiledTest)>)>,
    matchers: Vec<CompiledMatcher>,
    allow: Vec<Allow>,
    values: Vec<Place>,
}

/// One worker's classifier.
pub struct Classifier {
    hasher: Hasher,
    worker: u32,
    zone: String,
    compiled: Compiled,
    targets: HashMap<u128, KnownTarget, Hashed>,
    target_hits: HashMap<Box<[u32]>, u32>,
    target_sets: Vec<Box<[u32]>>,
    field_hits: HashMap<Box<[u32]>, u32>,
    field_sets: Vec<Box<[u32]>>,
    agents: HashMap<u128, Box<[u32]>, Hashed>,
    allow_sets: HashMap<Box<[u32]>, u32>,
    allow_lists: Vec<Box<[u32]>>,
    classes: HashMap<(u8, u32, u32, u32), u32>,
    next_class: u32,
    news: Vec<ClassDef>,
    scratch: Vec<u32>,
    bytes: Vec<u8>,
}

impl Classifier {
    /// A classifier without rules.
    pub fn new(worker: usize, hasher: Hasher, zone: &str) -> Classifier {
        Classifier {
            hasher,
            worker: worker as u32,
            zone: zone.to_owned(),
            compiled: Compiled::empty(),
            targets: HashMap::default(),
            target_hits: HashMap::new(),
            target_sets: Vec::new(),
            field_hits: HashMap::new(),
            field_sets: Vec::new(),
            agents: HashMap::default(),
            allow_sets: HashMap::new(),
            allow_lists: Vec::new(),
            classes: HashMap::new(),
            next_class: 0,
            news: Vec::new(),
            scratch: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Puts a rule set in force: what was remembered under the old one is forgotten.
    pub fn load(&mut self, rules: &Rules) -> Result<(), String> {
        self.compiled = Compiled::new(rules, &self.zone)?;
        self.forget();
        Ok(())
    }

    fn forget(&mut self) {
        self.targets.clear();
        self.target_hits.clear();
        self.target_sets.clear();
        self.field_hits.clear();
        self.field_sets.clear();
        self.agents.clear();
        self.allow_sets.clear();
        self.allow_lists.clear();
        self.classes.clear();
    }

    /// Targets and agents that it remembers.
    pub fn held(&self) -> Held {
        let mut held = Held::of(self.targets.len(), size_of::<(u128, KnownTarget)>());
        held += Held::of(self.agents.len(), size_of::<(u128, Box<[u32]>)>());
        held.bytes += self.agents.values().map(|entries| size_of_val::<[u32]>(entries) as u64).sum::<u64>();
        held
    }

    /// Classes met since the last call.
    pub fn take_news(&mut self) -> Vec<ClassDef> {
        std::mem::take(&mut self.news)
    }

    /// The definition of a class met since the news were last taken.
    pub fn latest_news(&self, class: u32) -> Option<ClassDef> {
        self.news.iter().rev().find(|def| def.id == class).cloned()
    }

    /// Classifies an event; `values` receives the hashes of the fields that rules compare.
    pub fn classify(&mut self, event: &Event<'_>, time: i64, values: &mut Vec<u64>) -> Classified {
        let known = self.target(event.event_type, &event.target);
        let fields = self.fields(event, values);
        let allowed = self.allowed(&event.agent_id, event.event_type, time, known);
        let key = (event.event_type as u8, known.hits, fields, allowed);
        let class = match self.classes.get(&key) {
            Some(&class) => class,
            None => self.new_class(key),
        };
        Classified { class, target: known.hash }
    }

    /// The allowlist's entries that hold for such an event, in order.
    pub fn allowing(&mut self, event_type: EventType, target: &str, agent: &str, time: i64) -> &[AllowId] {
        let known = self.target(event_type, target);
        let set = self.allowed(agent, event_type, time, known);
        self.allow_lists.get(set as usize).map_or(&[], |list| list)
    }

    fn target(&mut self, event_type: EventType, text: &str) -> KnownTarget {
        let kind = event_type as u8;
        let key = self.hasher.wide(text.as_bytes()) ^ u128::from(kind);
        if let Some(known) = self.targets.get(&key) {
            return *known;
        }
        if self.targets.len() >= MEMORY {
            self.targets.clear();
        }
        let target = target::normalise(event_type, text);
        let mut hits = std::mem::take(&mut self.scratch);
        hits.clear();
        let text = target.text();
        match &target {
            target::Target::Path(path) => self.compiled.paths.find(path, &mut hits),
            target::Target::Text(text) => self.compiled.texts.find(text, &mut hits),
            target::Target::Host { host, port } => {
                self.compiled.hosts.find(host, &mut hits);
                if port.is_some() {
                    self.compiled.host_ports.find(&text, &mut hits);
                }
            }
        }
        let known = KnownTarget {
            hash: self.hasher.narrow(text.as_bytes()),
            hits: intern(&mut self.target_hits, &mut self.target_sets, &mut hits),
        };
        self.scratch = hits;
        self.targets.insert(key, known);
        known
    }

    fn fields(&mut self, event: &Event<'_>, values: &mut Vec<u64>) -> u32 {
        values.clear();
        if self.compiled.fields.is_empty() && self.compiled.values.is_empty() {
            return 0;
        }
        let mut hits = std::mem::take(&mut self.scratch);
        hits.clear();
        let mut fields = Fields::new(event);
        for (place, tests) in &self.compiled.fields {
            fields.with(place, |value| {
                hits.extend(tests.iter().filter(|(_, test)| test.holds(value)).map(|(atom, _)| *atom));
            });
        }
        for field in &self.compiled.values {
            self.bytes.clear();
            let bytes = &mut self.bytes;
            let known = fields.with(field, |value| scalar_bytes(value, bytes));
            values.push(known.map_or(0, |()| self.hasher.narrow(&self.bytes)));
        }
        let id = intern(&mut self.field_hits, &mut self.field_sets, &mut hits);
        self.scratch = hits;
        id
    }

    fn allowed(&mut self, agent: &str, event_type: EventType, time: i64, known: KnownTarget) -> u32 {
        if self.compiled.allow.is_empty() {
            return 0;
        }
        let key = self.hasher.wide(agent.as_bytes());
        if self.agents.len() >= MEMORY {
            self.agents.clear();
        }
        let allow = &self.compiled.allow;
        let entries = self.agents.entry(key).or_insert_with(|| {
            let names_agent = |a: &&(u32, &Allow)| a.1.agent.as_ref().is_none_or(|r| r.is_match(agent));
            (0u32..).zip(allow).filter(|a| names_agent(&a)).map(|(n, _)| n).collect()
        });
        let mut hits = std::mem::take(&mut self.scratch);
        hits.clear();
        let targets = &self.target_sets[known.hits as usize];
        for &n in entries.iter() {
            let a = &allow[n as usize];
            let holds = a.entry.event_types.contains(event_type as u8)
                && a.targets.is_none_or(|atom| targets.binary_search(&atom).is_ok())
                && a.entry.expires.is_none_or(|end| time < end)
                && a.times.as_ref().is_none_or(|times| times.contain(time));
            if holds {
                hits.push(a.id);
            }
        }
        let id = intern(&mut self.allow_sets, &mut self.allow_lists, &mut hits);
        self.scratch = hits;
        id
    }

    fn new_class(&mut self, key: (u8, u32, u32, u32)) -> u32 {
        let (event_type, targets, fields, allowed) = key;
        let empty: &[u32] = &[];
        let targets: &[u32] = self.target_sets.get(targets as usize).map_or(empty, |s| s);
        let fields: &[u32] = self.field_sets.get(fields as usize).map_or(empty, |s| s);
        let allowed: &[u32] = self.allow_lists.get(allowed as usize).map_or(empty, |s| s);
        let id = self.worker << CLASS_BITS | self.next_class & ((1 << CLASS_BITS) - 1);
        self.next_class += 1;
        let holds = |needs: &[Need], hits: &[u32]| needs.iter().all(|n| hits.binary_search(&n.atom).is_ok() == n.hit);
        let mut satisfied: Vec<u64> = Vec::new();
        for m in &self.compiled.matchers {
            if m.types >> event_type & 1 == 1 && holds(&m.targets, targets) && holds(&m.fields, fields) {
                let word = m.id as usize / 64;
                if satisfied.len() <= word {
                    satisfied.resize(word + 1, 0);
                }
                satisfied[word] |= 1 << (m.id % 64);
            }
        }
        self.news.push(ClassDef { id, satisfied, allowed: allowed.to_vec() });
        self.classes.insert(key, id);
        id
    }
}

/// The number of a set of hits.
fn intern(known: &mut HashMap<Box<[u32]>, u32>, sets: &mut Vec<Box<[u32]>>, hits: &mut Vec<u32>) -> u32 {
    hits.sort_unstable();
    hits.dedup();
    if let Some(&id) = known.get(hits.as_slice()) {
        return id;
    }
    let id = sets.len() as u32;
    sets.push(hits.as_slice().into());
    known.insert(hits.as_slice().into(), id);
    id
}

/// Numbers of atoms, by content.
#[derive(Default)]
struct Atoms {
    targets: std::collections::HashMap<Test, u32>,
    fields: std::collections::HashMap<Test, u32>,
}

impl Compiled {
    fn empty() -> Compiled {
        Compiled {
            paths: Patterns::default(),
            hosts: Patterns::default(),
            host_ports: Patterns::default(),
            texts: Patterns::default(),
            fields: Vec::new(),
            matchers: Vec::new(),
            allow: Vec::new(),
            values: Vec::new(),
        }
    }

    fn new(rules: &Rules, zone: &str) -> Result<Compiled, String> {
        let mut out = Compiled { values: rules.values.iter().map(Place::of).collect(), ..Compiled::empty() };
        let mut atoms = Atoms::default();
        for (id, matcher) in &rules.matchers {
            let compiled = out.matcher(*id, matcher, &mut atoms)?;
            out.matchers.push(compiled);
        }
        for (id, entry) in &rules.allowlist {
            let agent = entry.agent.as_deref().map(regex).transpose().map_err(|e| format!("agent_pattern: {e}"))?;
            let targets =
                (!entry.targets.is_empty()).then(|| out.target_atom(&Test::Target(entry.targets.clone()), &mut atoms));
            let times = entry.times.as_ref().map(|t| Times::new(t, zone)).transpose()?;
            out.allow.push(Allow { id: *id, entry: entry.clone(), agent, targets, times });
        }
        for patterns in [&mut out.paths, &mut out.hosts, &mut out.host_ports, &mut out.texts] {
            patterns.compile()?;
        }
        Ok(out)
    }

    fn matcher(&mut self, id: MatcherId, matcher: &Matcher, atoms: &mut Atoms) -> Result<CompiledMatcher, String> {
        let mut out = CompiledMatcher { id, types: matcher.event_types.0, targets: Vec::new(), fields: Vec::new() };
        for test in &matcher.tests {
            match test {
                Test::Target(_) | Test::TargetRegex(_) => {
                    out.targets.push(Need { atom: self.target_atom(test, atoms), hit: true });
                }
                Test::NotTarget(patterns) => {
                    let atom = self.target_atom(&Test::Target(patterns.clone()), atoms);
                    out.targets.push(Need { atom, hit: false });
                }
                Test::Field(field, operators) => {
                    let next = atoms.fields.len() as u32;
                    let atom = *atoms.fields.entry(test.clone()).or_insert(next);
                    if atom == next {
                        let compiled = CompiledTest::new(operators).map_err(|e| e.to_string())?;
                        let place = Place::of(field);
                        match self.fields.iter_mut().find(|(p, _)| *p == place) {
                            Some((_, tests)) => tests.push((atom, compiled)),
                            None => self.fields.push((place, vec![(atom, compiled)])),
                        }
                    }
                    out.fields.push(Need { atom, hit: true });
                }
            }
        }
        Ok(out)
    }

    fn target_atom(&mut self, test: &Test, atoms: &mut Atoms) -> u32 {
        let next = atoms.targets.len() as u32;
        let atom = *atoms.targets.entry(test.clone()).or_insert(next);
        if atom == next {
            match test {
                Test::Target(patterns) | Test::NotTarget(patterns) => {
                    patterns.iter().for_each(|p| self.add_pattern(p, atom))
                }
                Test::TargetRegex(text) => {
                    for patterns in [&mut self.paths, &mut self.hosts, &mut self.host_ports, &mut self.texts] {
                        patterns.add(text, atom);
                    }
                }
                Test::Field(..) => {}
            }
        }
        atom
    }

    fn add_pattern(&mut self, pattern: &TargetPattern, atom: u32) {
        if let Some(path) = &pattern.path {
            self.paths.add(path, atom);
        }
        if let Some(other) = &pattern.other {
            self.texts.add(other, atom);
        }
        if let Some(host) = &pattern.host {
            if host.on != HostPart::HostPort {
                self.hosts.add(&host.regex, atom);
            }
            if host.on != HostPart::Host {
                self.host_ports.add(&host.regex, atom);
            }
        }
    }
}
