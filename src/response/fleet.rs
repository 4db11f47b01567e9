//! Which agents the ledger has heard of in this hour, so that it hears of each once. Knows no clock.

use std::collections::{HashMap, HashSet};

use super::ledger::MOST_AGENTS;

/// Agents by tenant, of one hour.
#[derive(Default)]
pub(super) struct Seen {
    hour: i64,
    agents: HashMap<String, HashSet<String>>,
    count: usize,
}

impl Seen {
    /// Those of (tenant_id, agent_id) that are new in this hour. Beyond the most that are counted nobody is.
    pub(super) fn new_ones<'a>(
        &mut self,
        hour: i64,
        agents: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Vec<(String, String)> {
        if hour != self.hour {
            *self = Seen { hour, ..Seen::default() };
        }
        let mut new = Vec::new();
        for (tenant, agent) in agents {
            let known = self.agents.get(tenant).is_some_and(|agents| agents.contains(agent));
            if known || self.count >= MOST_AGENTS {
                continue;
            }
            self.agents.entry(tenant.to_owned()).or_default().insert(agent.to_owned());
            self.count += 1;
            new.push((tenant.to_owned(), agent.to_owned()));
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_agent_of_each_tenant_is_told_once_an_hour() {
        let mut seen = Seen::default();
        let agents = [("", "a"), ("t", "a"), ("", "a"), ("", "b")];
        assert_eq!(seen.new_ones(1, agents.into_iter()).len(), 3);
        assert!(seen.new_ones(1, agents.into_iter()).is_empty());
        assert_eq!(seen.new_ones(2, agents.into_iter()).len(), 3);
    }

    #[test]
    fn made_up_agents_have_a_bound() {
        let mut seen = Seen::default();
        let names: Vec<String> = (0..MOST_AGENTS + 10).map(|n| n.to_string()).collect();
        assert_eq!(seen.new_ones(1, names.iter().map(|name| ("", name.as_str()))).len(), MOST_AGENTS);
    }
}
