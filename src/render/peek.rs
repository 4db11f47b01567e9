//! What detection knows of the live sessions, asked as of one epoch: this worker's part of an answer.

use std::collections::BTreeMap;

use super::detect::{Detect, Part};
use super::groups::Groups;
use super::session::Session;
use crate::session::{RiskWeights, SessionView};
use crate::timestamp::Timestamp;
use crate::view::{AgentView, Query, Ranked, Top};

/// A session's view with its group's key.
struct Keyed(u128, SessionView);

impl Ranked for Keyed {
    type Sort = <SessionView as Ranked>::Sort;
    fn rank(&self, sort: Self::Sort) -> i64 {
        self.1.rank(sort)
    }
    fn ids(&self) -> crate::view::Ids<'_> {
        self.1.ids()
    }
}

impl Detect {
    /// This worker's part of an answer: of a list, its first rows, as many as the whole answer may need.
    pub(super) fn answer(&self, id: u64, query: Query) -> Part {
        let mut part = Part { id, query, sessions: Vec::new(), agents: Vec::new(), total: 0 };
        let (idle, weights) = (self.idle_before(), &self.settings.risk);
        let groups = self.shared.groups.borrow();
        match &part.query {
            Query::Sessions { filter, sort, limit, after } => {
                let mut top = Top::new(*sort, after.clone(), *limit);
                let sessions = groups.iter().filter_map(|(key, group)| Some((*key, group.session.as_ref()?)));
                // A view costs far more than its names.
                for (key, session) in sessions.filter(|(_, session)| filter.may_accept(session.names())) {
                    let views = session.views(idle, weights).into_iter();
                    views.filter(|view| filter.accepts(view)).for_each(|view| top.offer(Keyed(key, view)));
                }
                part.total = top.total();
                part.sessions = top.into_rows().into_iter().map(|Keyed(key, view)| (key, view)).collect();
            }
            Query::SessionsById(ids) => {
                if let Some(hasher) = &*self.shared.hasher.borrow() {
                    let mut scratch = Vec::new();
                    for (tenant, agent, session) in ids {
                        let key = hasher.session(tenant, agent, session, &mut scratch);
                        let session = groups.get(key).and_then(|g| g.session.as_ref());
                        part.sessions.extend(session.iter().flat_map(|s| s.views(idle, weights)).map(|v| (key, v)));
                    }
                }
                part.total = part.sessions.len() as u64;
            }
            // All that may pass: an agent's sessions are on several workers, so no worker knows an agent's rank.
            Query::Agents { filter, .. } => {
                let may_pass = |session: &Session| {
                    let (tenant, agent, _) = session.names();
                    filter.tenant_id.as_ref().is_none_or(|t| t == tenant)
                        && filter.agent_id.as_ref().is_none_or(|a| a == agent)
                };
                part.agents = agents(&groups, may_pass, idle, weights);
            }
            Query::Alerts { .. } | Query::Alert(_) | Query::State => {}
        }
        part
    }
}

fn agents(groups: &Groups, may_pass: impl Fn(&Session) -> bool, idle: i64, weights: &RiskWeights) -> Vec<AgentView> {
    let mut agents: BTreeMap<(String, String), AgentView> = BTreeMap::new();
    let sessions = groups.iter().filter_map(|(_, group)| group.session.as_ref());
    for view in sessions.filter(|session| may_pass(session)).flat_map(|session| session.views(idle, weights)) {
        let key = (view.tenant_id.clone(), view.agent_id.clone());
        let agent = agents.entry(key).or_insert_with(|| AgentView {
            tenant_id: view.tenant_id.clone(),
            agent_id: view.agent_id.clone(),
            sessions: 0,
            events: 0,
            violations: 0,
            open_alerts: 0,
            max_risk: 0.0,
            last_seen: Timestamp(i64::MIN),
        });
        agent.sessions += 1;
        agent.events += view.events;
        agent.violations += view.violations;
        agent.max_risk = agent.max_risk.max(view.risk_score);
        agent.last_seen = agent.last_seen.max(Timestamp(view.last_seen));
    }
    agents.into_values().collect()
}
